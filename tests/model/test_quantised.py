"""Quantised kernels with adapters: trained, kept as they are, never rounded in silence."""

import keras
import numpy as np
import pytest
import safetensors.numpy

from tests import runs
from tests.runs import config_for
from tests.tiny import tiny_task
from tf_finetune import (
    GradualUnfreezing,
    LayerwiseAdamW,
    Phase,
    UserError,
    add_lora,
    fit_phases,
    load_adapter,
    merge_lora,
)
from tf_finetune import save_adapter as save
from tf_finetune.assemble import set_up
from tf_finetune.model.freezing import lora_layers

X = np.random.default_rng(0).integers(0, 16, (32, 8)).astype("int32")
Y = (X[:, 0] > 7).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
MODES = ["int8", "int4"]
TARGETS = {"Embedding": "re:block_0", "EinsumDense": "re:block_1", "Dense": "re:block_2"}


def build(mode=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), dtype="int32")
    x = keras.layers.Embedding(16, 8, name="block_0")(inputs)
    x = keras.layers.EinsumDense("abc,cd->abd", (None, 8), bias_axes="d", name="block_1")(x)
    x = keras.layers.Dense(8, activation="relu", name="block_2")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    for layer in model.layers:
        if mode and layer.name.startswith("block"):
            layer.quantize(mode)
    return model


def trained(mode, targets="all", **options):
    model = build(mode)
    add_lora(model, rank=2, targets=targets, **options)
    phase = Phase(train="lora", epochs=3, learning_rate=5e-2)
    fit_phases(model, (X, Y), phases=[phase], loss=LOSS, batch_size=8, say=lambda line: None)
    return model


def adapted(mode, targets="all"):
    """As if it had trained."""
    model = build(mode)
    for layer in add_lora(model, rank=2, targets=targets):
        b = getattr(layer, "lora_kernel_b", None)
        b = layer.lora_embeddings_b if b is None else b
        b.assign(np.random.default_rng(0).normal(size=b.shape))
    return model


def outputs(model):
    return np.asarray(model(X, training=False))


def bases(model):
    weights = [v for layer in lora_layers(model) for v in layer.weights]
    return {v.path: v.numpy() for v in weights if "lora_" not in v.path and "bias" not in v.path}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", TARGETS)
def test_adapters_train_beside_kernels_that_stay_bit_for_bit(mode, kind, tmp_path):
    model = trained(mode, TARGETS[kind])
    (layer,) = lora_layers(model)
    assert type(layer).__name__ == kind
    start = {v.path: v.numpy() for v in build(mode).weights}
    found = bases(model)
    assert any("int" in str(value.dtype) for value in found.values())
    for path, value in found.items():
        np.testing.assert_array_equal(value, start[path], err_msg=path)
    # The file holds all that trained.
    save(model, tmp_path / "a.safetensors")
    moved = {v.path for v in model.weights if not np.array_equal(v.numpy(), start.get(v.path, 0.0))}
    tensors = safetensors.numpy.load_file(tmp_path / "a.safetensors")
    assert moved <= {v.path for v in model.trainable_weights}
    assert len(tensors) == len(model.trainable_weights) == len(moved)
    other = build(mode)
    load_adapter(other, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(outputs(other), outputs(model))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5"])
def test_saving_one_whole_is_refused(mode, kind, name, tmp_path):
    model = adapted(mode, TARGETS[kind])
    before = outputs(model)
    with pytest.raises(UserError, match=rf"block_. is quantised \({mode}\).*save_adapter.*requant"):
        model.save(tmp_path / name) if name == "m.keras" else model.save_weights(tmp_path / name)
    np.testing.assert_array_equal(outputs(model), before)


def test_a_checkpoint_of_a_part_is_refused_too(tmp_path):
    model = adapted("int8")
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "m.weights.h5", save_weights_only=True)
    with pytest.raises(UserError, match="is quantised"):
        fit_phases(
            model,
            (X, Y),
            phases=[Phase(train="lora")],
            loss=LOSS,
            callbacks=[checkpoint],
            say=lambda line: None,
        )


def test_adapters_that_others_made_are_guarded_where_they_train(tmp_path):
    model = build("int8")
    model.get_layer("block_2").enable_lora(2)
    fit_phases(model, (X, Y), phases=[Phase(train="lora")], loss=LOSS, say=lambda line: None)
    with pytest.raises(UserError, match="block_2 is quantised"):
        model.save(tmp_path / "m.keras")


def test_adapters_that_others_made_are_guarded_in_a_plain_fit(tmp_path):
    model = build("int8")
    for layer in model.layers:
        if layer.name.startswith("block"):
            layer.enable_lora(2)
    model.compile(LayerwiseAdamW(1e-3), LOSS)
    model.fit(X, Y, verbose=0, callbacks=[GradualUnfreezing({0: "lora"}, say=None)])
    with pytest.raises(UserError, match="round it once more"):
        model.save_weights(tmp_path / "model.weights.h5")


def test_kernels_that_are_quantised_later_are_guarded(tmp_path):
    model = build()
    add_lora(model, rank=2, targets="re:block_2")
    model.save_weights(tmp_path / "float.weights.h5")
    model.get_layer("block_2").quantize("int8")
    with pytest.raises(UserError, match="is quantised"):
        model.save_weights(tmp_path / "m.weights.h5")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", TARGETS)
def test_keras_still_rounds_once_more_as_we_say(mode, kind):
    """Fails where Keras has changed, and the guard is no longer needed."""
    model = adapted(mode, TARGETS[kind])
    (layer,) = lora_layers(model)
    store = {}
    type(layer).save_own_variables(layer, store)
    kernel = layer._embeddings if kind == "Embedding" else layer._kernel
    assert store["0"].dtype == kernel.dtype
    assert not np.array_equal(np.asarray(store["0"]), kernel.numpy())


@pytest.mark.parametrize("mode", MODES)
def test_merging_says_what_it_does_and_can_be_told_to(mode, tmp_path):
    model = adapted(mode)
    before = outputs(model)
    with pytest.raises(UserError, match="requantize=True"):
        merge_lora(model)
    np.testing.assert_array_equal(outputs(model), before)
    merge_lora(model, requantize=True)
    after = outputs(model)
    assert lora_layers(model) == []
    assert not np.array_equal(after, before)
    assert np.abs(after - before).mean() < 0.5 * np.abs(before - outputs(build(mode))).mean()
    model.save(tmp_path / "m.keras")
    np.testing.assert_allclose(
        outputs(keras.models.load_model(tmp_path / "m.keras")), after, atol=1e-6
    )


def test_without_quantised_kernels_merging_is_exact_and_saving_as_ever(tmp_path):
    model = trained(None, alpha=7.0)
    before = outputs(model)
    model.save_weights(tmp_path / "m.weights.h5")
    plain = build()
    plain.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_allclose(outputs(plain), before, atol=1e-6)
    merge_lora(model)
    np.testing.assert_allclose(outputs(model), before, atol=1e-6)


def test_a_run_refuses_a_quantised_preset(tmp_path):
    task = tiny_task()
    task.backbone.quantize("int8")
    task.save(tmp_path / "tiny.keras")
    with pytest.raises(UserError, match=r"tiny.keras. holds kernels that are quantised \(int8\)"):
        set_up(config_for(tmp_path / "tiny.keras"), tmp_path / "cache", runs.classes())
