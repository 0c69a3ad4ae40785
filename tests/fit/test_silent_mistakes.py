"""What once trained otherwise than it was told, without a word."""

import keras
import numpy as np
import pytest

from tf_finetune import (
    Phase,
    UserError,
    add_lora,
    fit_phases,
    load_adapter,
    merge_lora,
    save_adapter,
)
from tf_finetune.fit import planned_cuts
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import drops, frozen_dropout_off, set_trainable

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(seed=0, **options):
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((6,))
    for i in range(3):
        x = keras.layers.Dense(6, "relu", name=f"block{i}_dense", **options)(x)
        x = keras.layers.BatchNormalization(name=f"block{i}_norm")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


def fit(model, *phases, loss=LOSS, train=(X, Y), **options):
    phases = phases or (Phase(train="all", epochs=2, learning_rate=1e-2),)
    options = {"validation": (X, Y), "batch_size": 16} | options
    return fit_phases(model, train, phases=list(phases), loss=loss, say=print, **options)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
            "with ignore_class is not known to be a sum or a mean",
        ),
        (keras.losses.Dice(axis=(0,)), "is not known to be a sum or a mean"),
        (keras.losses.Tversky(axis=(0, 1)), "is not known to be a sum or a mean"),
    ],
)
def test_losses_that_do_not_add_up_over_parts_are_refused(loss, message):
    y = np.eye(2, dtype="float32")[Y] if "ignore" not in message else Y
    with pytest.raises(UserError, match=message):
        fit(network(), loss=loss, train=(X, y), validation=None, micro_batch=4)


def test_what_was_traced_before_goes_by_the_adapters_of_now(tmp_path):
    model = network()
    plain = model.predict(X, verbose=0)
    add_lora(model, 2, targets="re:block")
    for v in model.weights:
        if "lora_kernel_b" in v.path:
            v.assign(RANDOM.normal(size=v.shape))
    adapted = model.predict(X, verbose=0)
    assert np.abs(adapted - plain).max() > 0.1
    save_adapter(model, tmp_path / "a.safetensors")
    merge_lora(model)
    np.testing.assert_allclose(model.predict(X, verbose=0), adapted, atol=1e-4)
    other = network()
    other.predict(X, verbose=0)
    load_adapter(other, tmp_path / "a.safetensors")
    np.testing.assert_allclose(other.predict(X, verbose=0), adapted, atol=1e-4)


def test_evaluating_after_a_merge_counts_the_adapters_once():
    model = network()
    add_lora(model, 2, targets="re:block")
    fit(model, Phase(train="lora", epochs=8, learning_rate=5e-2))
    merge_lora(model)
    found = model.evaluate(X, Y, return_dict=True, verbose=0)["loss"]
    assert found == pytest.approx(float(LOSS(Y, model(X))), rel=1e-4)


@pytest.mark.parametrize("train", ["norm", "re:block1_norm/gamma"])
def test_scales_of_frozen_norms_train_on_a_cut_as_without(train, monkeypatch):
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 1e-9, "GPU": 1e-9})
    phase = Phase(train=train, batch_norm="affine", epochs=3, learning_rate=1e-2)
    cut, whole = network(), network()
    first = cut.get_layer("block1_norm").gamma.numpy()
    fit(cut, phase)
    fit(whole, phase, cache=False)
    assert not np.array_equal(cut.get_layer("block1_norm").gamma.numpy(), first)
    for a, b in zip(cut.weights, whole.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=a.path)


def test_averages_of_keras_that_begin_at_zero_are_refused():
    optimizer = keras.optimizers.SGD(use_ema=True, ema_overwrite_frequency=10)
    with pytest.raises(UserError, match="begin at zero"):
        fit(network(), optimizer=optimizer)


@pytest.mark.parametrize("steps", [3, 5])
def test_an_epoch_of_arrays_is_all_of_them(steps):
    with pytest.raises(UserError, match="but train holds 4 batches"):
        fit(network(), steps_per_epoch=steps)


def test_metrics_with_a_number_for_each_class_are_kept_as_lists():
    y = np.eye(2, dtype="float32")[Y]
    model, given = network(), {"train": (X, y), "validation": (X, y)}
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    result = fit(model, loss=loss, metrics=[keras.metrics.F1Score(name="f1")], **given)
    assert len(result.history[-1]["val_f1"]) == len(result.history[-1]["f1"]) == 2
    metrics = [keras.metrics.F1Score(name="f1")]
    with pytest.raises(UserError, match="a number for each class"):
        fit(network(), loss=loss, metrics=metrics, monitor="val_f1", **given)


def test_a_frozen_spectral_normalization_is_refused_before_it_moves():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.SpectralNormalization(keras.layers.Dense(6)) for _ in range(2)]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])
    before = [v.numpy() for v in model.weights]
    with pytest.raises(UserError, match="SpectralNormalization, changes its kernel"):
        fit(model, Phase(train="head", learning_rate=1e-2))
    for v, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(v, value)


def test_a_phase_that_was_rescued_hands_on_no_moments_that_are_none():
    class Breaks(keras.callbacks.Callback):
        """Has the second epoch of the first phase diverge."""

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1 and not hasattr(self, "done"):
                self.done = True
                self.model.optimizer.learning_rate.assign(np.float32("nan"))

    model = network()
    phases = [
        Phase(name="first", train="head", epochs=3, learning_rate=1e-2, schedule="plateau"),
        Phase(name="second", train="all", epochs=2, learning_rate=1e-3),
    ]
    result = fit(model, *phases, spike_guard=0, callbacks=[Breaks()], clip=0)
    assert all(np.isfinite(row["val_loss"]) for row in result.history[-2:])


def test_a_step_that_does_not_tell_its_loss():
    class Quiet(keras.Model):
        def test_step(self, data):
            found = super().test_step(data)
            return {"accuracy": found["accuracy"]}

    plain = network()
    model = Quiet(plain.inputs, plain.outputs)
    result = fit(model, metrics=["accuracy"], monitor="val_accuracy")
    assert result.history[-1]["val_accuracy"] > 0.5


def test_a_constraint_is_refused_before_any_layer_has_an_adapter():
    model = network()
    model.get_layer("block2_dense").kernel_constraint = keras.constraints.MaxNorm(2)
    with pytest.raises(UserError, match="block2_dense has a kernel_constraint"):
        add_lora(model, 2, targets="re:block")
    model.get_layer("block2_dense").kernel_constraint = None
    assert len(add_lora(model, 2, targets="re:block")) == 3


def test_the_dropout_of_attention_is_seen():
    inputs = keras.Input((4, 6))
    x = keras.layers.Dense(6, name="block0_dense")(inputs)
    x = keras.layers.Attention(dropout=0.5, name="block0_attention")([x, x])
    x = keras.layers.Dense(6, name="block1_dense")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    assert drops(model)
    groups = layer_groups(model)
    set_trainable(groups, "head")
    with frozen_dropout_off(groups):
        assert not drops(model)
