import keras
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from tests.tiny import tiny_task
from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.fit.phased import fit_phases
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import lora_layers, set_trainable
from tf_finetune.model.lora import add_lora, load_adapter, merge_lora, save_adapter

RANDOM = np.random.default_rng(0)
IDS = {
    "token_ids": RANDOM.integers(5, 16, (32, 8)).astype("int32"),
    "segment_ids": np.zeros((32, 8), "int32"),
    "padding_mask": np.ones((32, 8), "int32"),
}
LABELS = np.arange(32) % 2
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(seed=0):
    task = tiny_task(seed=seed)
    return task.network, task


def train(model, selection="lora", epochs=2):
    phase = Phase(train=selection, epochs=epochs, learning_rate=2e-2)
    return fit_phases(
        model, (IDS, LABELS), phases=[phase], loss=LOSS, batch_size=8, say=lambda line: None
    )


def values(model):
    return {v.path: v.numpy() for v in model.weights}


def moved(model, start):
    """Paths of the weights that are not as they were, or were not there."""
    return {k for k, v in values(model).items() if not np.array_equal(v, start.get(k))}


def outputs(model):
    return np.asarray(model(IDS, training=False))


def test_adapters_change_nothing_at_first_and_are_all_that_trains_with_the_head():
    model, _ = network()
    before, start = outputs(model), values(model)
    adapted = add_lora(model, rank=2)
    assert {layer.name for layer in adapted} == {"query", "value"}
    assert len(adapted) == len(lora_layers(model)) == 6
    np.testing.assert_array_equal(outputs(model), before)
    train(model)
    moved = {
        path for path, value in values(model).items() if not np.array_equal(value, start.get(path))
    }
    assert {path.rsplit("/", 1)[1] for path in moved if not path.startswith("logits")} == {
        "lora_kernel_a",
        "lora_kernel_b",
    }
    assert {"logits/kernel", "logits/bias"} < moved
    assert not np.array_equal(outputs(model), before)


def test_merging_keeps_the_outputs_and_leaves_a_plain_model(tmp_path):
    model, task = network()
    names = [v.path for v in model.weights]
    add_lora(model, rank=2, alpha=8)
    train(model)
    before = outputs(model)
    merge_lora(model)
    np.testing.assert_allclose(outputs(model), before, atol=1e-6)
    assert lora_layers(model) == []
    assert [v.path for v in model.weights] == names
    set_trainable(layer_groups(model, task.backbone), "all")
    assert len(model.trainable_weights) == len(names)
    task.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs(again.network), outputs(model))
    # It can have adapters once more.
    add_lora(model, rank=1)


def test_the_file_holds_all_that_trained_and_little_else(tmp_path):
    model, _ = network()
    add_lora(model, rank=2)
    train(model)
    file = tmp_path / "adapter.safetensors"
    save_adapter(model, file)
    weights = sum(v.numpy().nbytes for v in model.trainable_weights)
    assert weights < file.stat().st_size < weights + 4000
    other, _ = network()
    load_adapter(other, file)
    np.testing.assert_array_equal(outputs(other), outputs(model))
    # Into a model that has adapters already, too.
    third, _ = network()
    add_lora(third, rank=2)
    load_adapter(third, file)
    np.testing.assert_array_equal(outputs(third), outputs(model))


def of_many_shapes():
    """As Keras's own way to adapters has it: each layer has a rank and an alpha of its own."""
    model, _ = network()
    layers = [layer for layer in model._flatten_layers() if layer.name == "query"]
    for i, layer in enumerate(layers, 1):
        layer.enable_lora(i, lora_alpha=3.0 * i * i)
    return model


def test_each_layer_keeps_its_rank_and_alpha(tmp_path):
    model = of_many_shapes()
    train(model)
    save_adapter(model, tmp_path / "a.safetensors")
    for other in (network()[0], of_many_shapes()):
        load_adapter(other, tmp_path / "a.safetensors")
        np.testing.assert_array_equal(outputs(other), outputs(model))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rank": 2}, "adapter of rank 2 and alpha 8 beside .*, but .* of rank 2 and alpha 2; l"),
        ({"rank": 1, "alpha": 8}, "of rank 2 and alpha 8 beside .*, but .* of rank 1 and alpha 8"),
        ({"rank": 2, "alpha": 8, "targets": "re:query"}, "beside .*value, but .* has no adapter"),
        ({"rank": 2, "alpha": 8, "targets": "all"}, "has no adapter beside .*, but .* of rank 2"),
    ],
)
def test_adapters_of_other_shapes_are_refused(options, told, tmp_path):
    model, _ = network()
    add_lora(model, rank=2, alpha=8)
    save_adapter(model, tmp_path / "a.safetensors")
    other, _ = network()
    add_lora(other, **options)
    before = values(other)
    with pytest.raises(UserError, match=told):
        load_adapter(other, tmp_path / "a.safetensors")
    assert not moved(other, before)


@pytest.mark.parametrize("own", [True, False], ids=["add_lora", "enable_lora"])
def test_the_file_holds_what_any_phase_trained(own, tmp_path):
    def built():
        model, _ = network()
        if not own:  # as Keras's own way to adapters has it
            for layer in model._flatten_layers():
                if layer.name == "query":
                    layer.enable_lora(2)
        return model

    model = built()
    if own:
        add_lora(model, rank=2)
    start = values(model)
    phases = [
        Phase(train=selection, learning_rate=2e-2)
        for selection in ("head", "lora", "bias", "re:transformer_layer_1.*intermediate.*kernel")
    ]
    given = {"loss": LOSS, "batch_size": 8, "say": lambda line: None}
    fit_phases(model, (IDS, LABELS), phases=phases, **given)
    changed = moved(model, start)
    assert any(path.endswith("key/bias") for path in changed)
    opened = [v.path for v in model.trainable_variables]
    file = tmp_path / "adapter.safetensors"
    save_adapter(model, file)
    assert [v.path for v in model.trainable_variables] == opened
    with safetensors.safe_open(file, "numpy") as held:
        assert changed <= set(held.keys())
    other, _ = network()
    load_adapter(other, file)
    np.testing.assert_array_equal(outputs(other), outputs(model))
    assert not moved(other, values(model))
    # What was loaded is part of what is saved from there.
    save_adapter(other, tmp_path / "again.safetensors")
    third, _ = network()
    load_adapter(third, tmp_path / "again.safetensors")
    np.testing.assert_array_equal(outputs(third), outputs(model))


def test_the_file_holds_the_statistics_of_the_head(tmp_path):
    def headed():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(6, activation="relu", name=f"block_{i}") for i in range(2)]
        norm = keras.layers.BatchNormalization(name="norm")
        head = [norm, keras.layers.Dense(2, name="logits")]
        base = keras.Sequential([keras.Input((6,)), *layers], name="base")
        return keras.Sequential([keras.Input((6,)), base, *head], name="model")

    x = np.random.default_rng(0).normal(3.0, 2.0, (32, 6)).astype("float32")
    model, other = headed(), headed()
    add_lora(model, targets="re:block", backbone="base")
    phase = Phase(train="lora", epochs=2, learning_rate=2e-2)
    given = {"loss": LOSS, "backbone": "base", "batch_size": 8, "say": lambda line: None}
    fit_phases(model, (x, (x[:, 0] > 3).astype("int32")), phases=[phase], **given)
    save_adapter(model, tmp_path / "a.safetensors", backbone="base")
    load_adapter(other, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(other(x, training=False), model(x, training=False))
    assert not np.array_equal(model.get_layer("norm").moving_mean, np.zeros(6))


def conv_model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), dtype="int32")
    x = keras.layers.Embedding(16, 6, name="block_0")(inputs)
    x = keras.layers.Conv1D(6, 3, padding="same", activation="relu", name="block_1")(x)
    x = keras.layers.EinsumDense("abc,cd->abd", (None, 6), name="block_2")(x)
    x = keras.layers.Dense(6, activation="relu", name="block_3")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


def test_every_kind_of_layer_that_can_have_an_adapter(tmp_path):
    model = conv_model()
    x = IDS["token_ids"]
    adapted = add_lora(model, rank=1, targets="all")
    assert [layer.name for layer in adapted] == [f"block_{i}" for i in range(4)]
    start = values(model)
    phase = Phase(train="lora", epochs=2, learning_rate=2e-2)
    fit_phases(model, (x, LABELS), phases=[phase], loss=LOSS, say=lambda line: None)
    moved = {
        path for path, value in values(model).items() if not np.array_equal(value, start[path])
    }
    assert {path.rsplit("/", 1)[1] for path in moved} == {
        *("lora_kernel_a", "lora_kernel_b", "lora_embeddings_a", "lora_embeddings_b"),
        *("kernel", "bias"),  # of the head
    }
    save_adapter(model, tmp_path / "a.safetensors")
    other = conv_model()
    load_adapter(other, tmp_path / "a.safetensors")
    before = np.asarray(model(x))
    np.testing.assert_array_equal(np.asarray(other(x)), before)
    merge_lora(model)
    np.testing.assert_allclose(np.asarray(model(x)), before, atol=1e-6)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantised_kernels_stay_as_they_are(mode, tmp_path):
    def build():
        model, _ = network()
        for layer in model._flatten_layers():
            if layer.name in ("query", "value"):
                layer.quantize(mode)
        return model

    model = build()
    add_lora(model, rank=2)
    start = values(model)
    train(model)
    kernels = [layer._kernel for layer in lora_layers(model)]
    assert all("int" in kernel.dtype for kernel in kernels)
    assert all(np.array_equal(kernel, start[kernel.path]) for kernel in kernels)
    assert not np.array_equal(lora_layers(model)[0].lora_kernel_b, np.zeros(1))
    with pytest.raises(UserError, match=rf"is quantised \({mode}\).*save_adapter"):
        merge_lora(model)
    save_adapter(model, tmp_path / "a.safetensors")
    other = build()
    load_adapter(other, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(outputs(other), outputs(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank of LoRA is 0"),
        ({"alpha": -1.0}, "alpha of LoRA is -1"),
        ({"targets": "norm"}, 'targets="norm" .* selects no layer that can have an adapter; choo'),
        ({"targets": "re:nothing"}, 'targets="re:nothing" matches none'),
    ],
)
def test_mistakes_in_adding(options, message):
    model, _ = network()
    with pytest.raises(UserError, match=message):
        add_lora(model, **options)


def test_adapters_are_added_once_and_needed_to_be_trained():
    model, _ = network()
    with pytest.raises(UserError, match="add_lora"):
        train(model)
    with pytest.raises(UserError, match="add_lora"):
        save_adapter(model, "x.safetensors")
    add_lora(model)
    with pytest.raises(UserError, match="has adapters already"):
        add_lora(model)


def test_files_that_do_not_fit(tmp_path):
    model, _ = network()
    add_lora(model, rank=2)
    file = tmp_path / "adapter.safetensors"
    save_adapter(model, file)
    with pytest.raises(UserError, match="does not exist"):
        load_adapter(model, tmp_path / "other")
    with pytest.raises(UserError, match="has adapters for layers that the model"):
        load_adapter(conv_model(), file)
    other, _ = network()
    add_lora(other, rank=3)
    with pytest.raises(UserError, match="adapter of rank 2 and alpha 2 beside"):
        load_adapter(other, file)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="is damaged"):
        load_adapter(model, torn)
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "plain")
    with pytest.raises(UserError, match="is no adapter"):
        load_adapter(model, tmp_path / "plain")


def test_merging_keeps_every_digit_and_what_trains():
    dense = [keras.layers.Dense(6, name=f"block_{i}", dtype="mixed_bfloat16") for i in range(2)]
    model = keras.Sequential([keras.Input((6,)), *dense, keras.layers.Dense(2, name="logits")])
    before, opened = values(model), [v.path for v in model.trainable_weights]
    add_lora(model, targets="re:block")
    merge_lora(model)
    assert not moved(model, before)
    assert [v.path for v in model.trainable_weights] == opened
