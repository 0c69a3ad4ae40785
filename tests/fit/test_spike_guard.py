import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.fit.spike_guard import SpikeGuard
from tf_finetune.optim.optimizers import LayerwiseAdamW
from tf_finetune.optim.schedules import rate_schedule

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(400, 4)).astype("float32")
Y = X.sum(1, keepdims=True)
BATCH = 4  # 100 batches an epoch


class Rates(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(np.asarray(self.model.optimizer.learning_rate)))


def fit(optimizer, guard=None, *, wrong=(), value=np.nan, epochs=1, scale=None, **options):
    """Trains on batches of which some have wrong targets; returns the model and its rates."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.2), keras.layers.Dense(1)])
    y = Y.copy()
    for batch in wrong:
        y[batch * BATCH : (batch + 1) * BATCH] = value
    model.compile(optimizer, "mse", metrics=["mae"], **options)
    rates = Rates()
    history = model.fit(
        tf.data.Dataset.from_tensor_slices((X, y)).batch(BATCH),
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[rates, *([guard] if guard else [])],
    )
    return model, rates.seen, history.history


def quiet(**options):
    return SpikeGuard(say=lambda line: None, **options)


def scheduled():
    return LayerwiseAdamW(rate_schedule("linear", 1e-2, 0, 100))


@pytest.mark.parametrize("make", [scheduled, lambda: keras.optimizers.SGD(1e-2, momentum=0.9)])
def test_without_a_spike_training_is_bit_for_bit_the_same(make):
    plain, rates, _ = fit(make())
    guarded, same, _ = fit(make(), quiet())
    assert rates == pytest.approx(same)
    for a, b in zip(plain.weights, guarded.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for a, b in zip(plain.optimizer.variables, guarded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("make", [scheduled, lambda: keras.optimizers.SGD(1e-2, momentum=0.9)])
@pytest.mark.parametrize("options", [{}, {"jit_compile": True}])
def test_a_batch_that_is_no_number_is_skipped_and_the_rate_halved(make, options):
    ruined, _, _ = fit(make(), wrong=[70])
    assert not np.isfinite(ruined.get_weights()[0]).all()
    guard, said = quiet(), []
    guard._say = said.append
    model, rates, history = fit(make(), guard, wrong=[70], **options)
    assert guard.skipped == [(1, 51, 71)]
    assert "the loss is nan at batch 71" in said[0]
    assert np.isfinite(np.concatenate([w.ravel() for w in model.get_weights()])).all()
    assert np.isfinite(history["loss"][0])
    assert np.isfinite(history["mae"][0])
    _, undisturbed, _ = fit(make())
    # The rate of a step is read after it; the guard came later in that of batch 71.
    np.testing.assert_allclose(rates[:71], undisturbed[:71], rtol=1e-5)
    np.testing.assert_allclose(rates[71:], np.array(undisturbed[71:]) / 2, rtol=1e-5)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("rows", [False, True], ids=["dense", "rows of a table"])
@pytest.mark.parametrize("make", [lambda: LayerwiseAdamW(1e-2), lambda: keras.optimizers.Adam()])
def test_the_state_it_goes_back_to_is_that_of_the_copy(make, rows, jit):
    """The batches from the copy to the spike leave no trace at all, however they update."""

    class Stop(keras.callbacks.Callback):
        def __init__(self, at):
            super().__init__()
            self.at = at

        def on_train_batch_end(self, batch, logs=None):
            if batch == self.at:
                kept = [*self.model.weights, *self.model.optimizer.variables[2:]]
                self.kept = [v.numpy() for v in kept]

    def run(wrong, at):
        keras.utils.set_random_seed(0)
        table = [keras.layers.Embedding(2, 3), keras.layers.Flatten()] if rows else []
        model = keras.Sequential([keras.Input((4,)), *table, keras.layers.Dense(1)])
        y = Y.copy()
        y[wrong * BATCH : (wrong + 1) * BATCH] = np.inf
        model.compile(make(), "mse", jit_compile=jit)
        stop = Stop(at)
        data = tf.data.Dataset.from_tensor_slices(((X > 0) if rows else X, y)).batch(BATCH)
        model.fit(data, shuffle=False, verbose=0, callbacks=[quiet(), stop])
        return stop.kept

    for a, b in zip(run(wrong=70, at=49), run(wrong=70, at=70), strict=True):
        np.testing.assert_array_equal(a, b)


def test_high_losses_count_when_two_follow_each_other():
    one, two = quiet(), quiet()
    fit(keras.optimizers.SGD(1e-3), one, wrong=[40], value=300.0)
    assert one.skipped == []
    fit(keras.optimizers.SGD(1e-3), two, wrong=[40, 41], value=300.0)
    assert two.skipped == [(1, 1, 42)]


def test_it_ends_the_training_that_diverges_again_and_again():
    guard = quiet(most=2)
    with pytest.raises(UserError, match=r"diverged: .* though the rate was halved 2 times"):
        fit(keras.optimizers.SGD(1e-3), guard, wrong=[5, 30, 60, 80])
    assert len(guard.skipped) == 2


def test_a_new_epoch_counts_its_own_metrics():
    guard = quiet()
    _, _, history = fit(scheduled(), guard, wrong=[10], epochs=2)
    assert [skipped[0] for skipped in guard.skipped] == [1, 2]
    assert np.isfinite(history["loss"]).all()


def test_the_lowered_schedule_is_saved_with_the_model(tmp_path):
    model, _, _ = fit(scheduled(), quiet(), wrong=[70])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert float(again.optimizer.learning_rate) == float(model.optimizer.learning_rate)
    assert again.optimizer._learning_rate.get_config()["factor"] == 0.5


@pytest.mark.parametrize("options", [{"most": 0}, {"spike": 1.0}])
def test_mistakes(options):
    with pytest.raises(UserError, match=next(iter(options))):
        SpikeGuard(**options)


def test_a_loss_below_zero_is_no_spike():
    guard, identity = quiet(), keras.layers.Dense(4, kernel_initializer="identity")
    model = keras.Sequential([keras.Input((4,)), identity])
    model.compile(keras.optimizers.SGD(1e-3), keras.losses.CosineSimilarity())
    data = tf.data.Dataset.from_tensor_slices((X, X)).batch(BATCH)
    model.fit(data, shuffle=False, verbose=0, callbacks=[guard])
    assert guard.skipped == []
    y = X.copy()
    y[60 * BATCH : 62 * BATCH] *= -1  # the loss is 1 there, and -1 elsewhere
    data = tf.data.Dataset.from_tensor_slices((X, y)).batch(BATCH)
    model.fit(data, shuffle=False, verbose=0, callbacks=[guard])
    assert len(guard.skipped) == 0  # it is no more than the size of the loss away


def test_small_losses_of_a_model_that_fits_already_are_no_spikes():
    """Nine times the median, and still below that of rows it was not trained on."""

    def fitted(guard):
        identity = keras.layers.Dense(1, kernel_initializer="ones", name="logits")
        model = keras.Sequential([keras.Input((4,)), identity])
        model.compile(keras.optimizers.SGD(1e-4), "mse")
        y = Y + 0.1
        y[60 * BATCH : 64 * BATCH] += 0.2
        data = tf.data.Dataset.from_tensor_slices((X, y)).batch(BATCH)
        model.fit(data, shuffle=False, verbose=0, callbacks=[guard])
        return guard.skipped

    assert len(fitted(quiet())) == 2
    assert fitted(quiet(least=0.5)) == []
    assert len(fitted(quiet(least=0.05))) == 2
