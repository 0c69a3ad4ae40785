"""Averaged weights: equal to an average by hand, and training goes on as without them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.fit.test_phased import HELD_OUT, LOSS, TRAIN, batches, fit, functional, nested
from tests.runs import classes, config_for
from tf_finetune import Phase, UserError, add_lora, fine_tune, merge_lora
from tf_finetune.fit.averaging import AveragedWeights


class Watch(keras.callbacks.Callback):
    """The weights after each batch, and at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.raw, self.ends = [], []

    def on_train_begin(self, logs=None):
        self.raw.append(self.model.get_weights())

    def on_train_batch_end(self, batch, logs=None):
        self.raw.append(self.model.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        self.ends.append(self.model.get_weights())


def by_hand(raw, momentum):
    """The average of weights after each update, of which the first stands before them all."""
    average = raw[0]
    for t, weights in enumerate(raw[1:], 1):
        share = np.float32(1 - min(momentum, (1 + t) / (10 + t)))
        average = [a + (w - a) * share for a, w in zip(average, weights, strict=True)]
    return average


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.mark.parametrize("momentum", [0.05, 0.4, 0.999])
@pytest.mark.parametrize("validation", [None, HELD_OUT], ids=["no validation", "validation"])
def test_epochs_end_with_the_average_by_hand(momentum, validation):
    watch, model = Watch(), nested()
    phase = Phase(epochs=3, learning_rate=1e-2)
    fit(model, phase, validation=validation, ema=momentum, callbacks=[watch])
    assert len(watch.raw) == 1 + 3 * 4
    for epoch, end in enumerate(watch.ends, 1):
        assert_equal(end, by_hand(watch.raw[: 1 + 4 * epoch], momentum))
    if validation is None:
        assert_equal(model.get_weights(), watch.ends[-1])


def test_of_adapters_the_factors_are_averaged_and_their_product_is_merged():
    watch, model = Watch(), nested()
    add_lora(model, rank=2, targets="re:block_1")
    phase = Phase(train="lora", epochs=3, learning_rate=1e-1)
    fit(model, phase, validation=None, ema=0.9, callbacks=[watch])
    i, j = (
        next(k for k, v in enumerate(model.weights) if v.path.endswith(f"block_1/lora_kernel_{f}"))
        for f in "ab"
    )
    assert_equal(model.get_weights(), by_hand(watch.raw, 0.9))
    a, b = model.get_weights()[i], model.get_weights()[j]
    (products,) = by_hand([[w[i] @ w[j]] for w in watch.raw], 0.9)
    assert not np.allclose(products, a @ b, 1e-3)  # as the documentation says
    kernel = next(k for k, v in enumerate(model.weights) if v.path.endswith("block_1/kernel"))
    before = model.get_weights()[kernel]
    merge_lora(model)
    merged = next(v for v in model.weights if v.path.endswith("block_1/kernel"))
    np.testing.assert_allclose(merged.numpy(), before + a @ b, 1e-5, 1e-6)


def test_after_a_few_updates_the_start_hardly_counts():
    assert by_hand([[np.ones(1)], *[[np.zeros(1)]] * 5], 0.999)[0][0] < 0.01


def test_training_is_bit_for_bit_what_it_is_without():
    def trained(**options):
        keras.utils.set_random_seed(3)
        watch = Watch()
        phase = Phase(epochs=3, learning_rate=1e-2, batch_norm="update")
        result = fit(functional(dropout=0.3), phase, callbacks=[watch], **options)
        return watch, result

    (plain, without), (averaged, with_) = trained(), trained(ema=0.9)
    for a, b in zip(plain.raw, averaged.raw, strict=True):
        assert_equal(a, b)
    losses = [[row["loss"] for row in result.history] for result in (without, with_)]
    assert losses[0] == losses[1]
    assert without.history[-1]["val_loss"] != with_.history[-1]["val_loss"]


@pytest.mark.parametrize("policy", ["freeze", "affine", "update"])
def test_what_is_frozen_is_bit_identical_and_statistics_go_with_their_weights(policy):
    watch, model = Watch(), functional()
    phase = Phase(train="last:1", epochs=2, learning_rate=1e-2, batch_norm=policy)
    fit(model, phase, ema=0.9, callbacks=[watch], validation=None)
    expected = by_hand(watch.raw, 0.9)
    for variable, start, end in zip(model.weights, watch.raw[0], expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), end, err_msg=variable.path)
        opened = "block_2" in variable.path or "logits" in variable.path
        if "_norm/" in variable.path:
            opened &= policy == "update" or (policy == "affine" and "moving" not in variable.path)
        assert np.array_equal(variable.numpy(), start) != opened, variable.path


def test_the_best_epoch_is_that_of_the_averages():
    watch, model = Watch(), nested()
    phase = Phase(epochs=30, learning_rate=0.1, patience=2)
    result = fit(model, phase, ema=0.9, callbacks=[watch])
    best = result.phases[0].best_epoch
    assert 0 < best == len(result.history) - 2
    assert_equal(model.get_weights(), watch.ends[best - 1])
    losses = [row["val_loss"] for row in result.history]
    assert losses[best - 1] == min(losses)
    found = model.evaluate(*HELD_OUT, verbose=0)[0]
    assert found == pytest.approx(losses[best - 1], abs=1e-6)


def test_each_phase_averages_from_its_own_start():
    watch = Watch()
    phase = Phase(epochs=1, learning_rate=1e-2)
    fit(nested(), phase, phase, ema=0.9, callbacks=[watch], validation=None)
    assert_equal(watch.raw[5], watch.ends[0])
    assert_equal(watch.ends[1], by_hand(watch.raw[5:], 0.9))


def test_the_spike_guard_takes_the_average_back_too():
    x = np.random.default_rng(0).normal(size=(400, 6)).astype("float32")
    x[60 * 4 : 61 * 4] = np.nan
    watch = Watch()
    result = fit(
        nested(),
        Phase(learning_rate=1e-3),
        train=tf.data.Dataset.from_tensor_slices((x, (x[:, 0] > 0).astype("int32"))).batch(4),
        validation=None,
        ema=0.9,
        callbacks=[watch],
    )
    ((_, first, last),) = result.phases[0].skipped
    assert last - first >= 5
    # What was skipped left no trace: the weights after it are those before it.
    kept = watch.raw[:first] + watch.raw[last + 1 :]
    assert_equal(watch.raw[last], watch.raw[first - 1])
    assert_equal(watch.ends[0], by_hand(kept, 0.9))


def test_it_counts_updates_where_gradients_accumulate():
    model, watch = nested(), Watch()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), LOSS)
    model.fit(batches(), epochs=2, verbose=0, callbacks=[AveragedWeights(0.8), watch])
    assert_equal(watch.ends[-1], by_hand(watch.raw[::2], 0.8))


def test_half_precision_weights_have_an_average_in_float32():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, dtype="bfloat16")])
    average, watch = AveragedWeights(0.99), Watch()
    model.compile(keras.optimizers.SGD(0.1), LOSS)
    model.fit(*TRAIN, batch_size=4, verbose=0, callbacks=[average, watch])
    hand = by_hand([[w.astype("float32") for w in weights] for weights in watch.raw], 0.99)
    for found, variable, kernel in zip(average.variables[1:], model.weights, hand, strict=True):
        np.testing.assert_allclose(found.numpy(), kernel, atol=1e-6)
        np.testing.assert_array_equal(
            variable.numpy(), found.numpy().astype(variable.numpy().dtype)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": 1.0}, "ema is 1.0; it must be at least 0 and below 1"),
        ({"ema": -0.1}, "ema is -0.1"),
        (
            {"ema": 0.9, "optimizer": keras.optimizers.SGD(use_ema=True)},
            r"ema is 0.9, but the optimizer averages too \(use_ema=True\)",
        ),
    ],
)
def test_mistakes(options, message):
    model = nested()
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        fit(model, Phase(), **options)
    assert_equal(model.get_weights(), before)


def test_the_swap_of_keras_changes_the_weights_that_training_goes_on_from():
    """Should this fail, Keras has mended it."""
    model = nested()
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), LOSS)
    for _ in range(3):
        model.train_on_batch(*TRAIN)
    before = model.get_weights()
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    swap.on_test_begin()
    swap.on_test_end()
    assert not all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_run_ships_its_averaged_weights(preset, tmp_path):
    config = config_for(preset, ema=0.9, epochs=4, learning_rate=1e-2)
    result = fine_tune(config, tmp_path / "run", classes(), say=lambda line: None)
    phase = result.metrics["phases"][-1]
    best = phase["history"][phase["best_epoch"] - 1] if phase["best_epoch"] else phase["start"]
    assert result.metrics["validation"]["accuracy"] == pytest.approx(best["val_accuracy"])
    other = config_for(preset, epochs=4, learning_rate=1e-2)
    raw = fine_tune(other, tmp_path / "raw", classes(), say=lambda line: None)
    losses = [[row["loss"] for row in r.history if row["phase"] == "probe"] for r in (result, raw)]
    assert losses[0] == losses[1]
    assert any(
        not np.array_equal(a.numpy(), b.numpy())
        for a, b in zip(result.model.weights, raw.model.weights, strict=True)
    )
