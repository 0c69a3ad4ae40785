"""A model that is cut is the whole model: in what it gives, and in what training makes of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.model.test_blocks import FAMILIES
from tests.tiny import two_headed
from tests.tiny_pictures import tiny_image_task
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.flow import graph_of
from tf_finetune.model.freezing import frozen_dropout_off, set_trainable
from tf_finetune.model.laid_open import multiply_adds
from tf_finetune.model.slicing import NotCut, Suffix, cut_of, run_prefixes, steps_of

layers = keras.layers


def residual():
    """Raw operations and three tensors over the cut."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="block_0_conv")(inputs)
    y = layers.BatchNormalization(name="block_1_norm")(x)
    z = keras.ops.tanh(y) * 0.5 + x
    w = layers.Conv2D(4, 3, padding="same", name="block_2_conv")(z)
    w = layers.Dropout(0.3, name="block_2_dropout")(w)
    w = keras.ops.concatenate([w + x, y, keras.ops.sin(z)], axis=-1)
    w = keras.ops.mean(w, axis=(1, 2))
    return keras.Model(inputs, layers.Dense(3, name="logits")(w))


def shared():
    """A layer that is called below the cut and above it."""
    inputs = keras.Input((6,))
    twice = layers.Dense(6, "tanh", name="twice")
    x = layers.Dense(6, "relu", name="middle")(twice(inputs))
    return keras.Model(inputs, layers.Dense(2, name="logits")(twice(x)))


def masked():
    """A mask that goes from below the cut to the layers above it."""
    ids = keras.Input((7,), dtype="int32")
    x = layers.Embedding(9, 5, mask_zero=True, name="table")(ids)
    x = layers.LSTM(4, return_sequences=True, name="first")(x)
    x = layers.LSTM(4, return_sequences=True, dropout=0.2, name="second")(x)
    return keras.Model(ids, layers.TimeDistributed(layers.Dense(2), name="logits")(x))


def nested():
    """Two models with layers of the same names, one in the other's way."""

    def inner(name):
        parts = [layers.Dense(5, "relu", name="a"), layers.Dropout(0.2, name="d")]
        parts += [layers.Dense(5, "relu", name="b")]
        return keras.Sequential([keras.Input((5,)), *parts], name=name)

    inputs = keras.Input((5,))
    x = inner("second")(inner("first")(inputs)) + inputs
    return keras.Model(inputs, layers.Dense(2, name="logits")(x))


def two_inputs():
    """A nested model that takes a dict, and a branch that ends below."""
    given = {name: keras.Input((4,), name=name) for name in ("b", "a")}
    x = layers.Dense(4, name="left")(given["b"]) - layers.Dense(4, name="right")(given["a"])
    body = keras.Model(given, {"sum": x, "own": layers.Dense(2, name="own")(x)}, name="body")
    found = body(given)
    x = layers.Concatenate()([found["sum"], given["a"]])
    return keras.Model(given, {"y": layers.Dense(2, name="logits")(x), "z": found["own"]})


OWN = {
    "residual": (residual, "re:block_2|logits"),
    "shared": (shared, "re:middle|logits"),
    "masked": (masked, "re:second|logits"),
    "nested": (nested, "re:second/b|logits"),
    "two inputs": (two_inputs, "re:logits"),
    "two outputs": (two_headed, "re:^(a|b)/"),
}
SOME = (
    *("MobileNet", "MobileNetV3Small"),
    *("BERT classifier", "BERT masked words", "RoBERTa classifier", "DistilBERT", "ALBERT"),
    *("DeBERTa v3", "GPT-2 language model", "Gemma", "Whisper", "MiT"),
    *("ResNet of KerasHub", "EfficientNet of KerasHub"),
)
LARGE = ("EfficientNetV2B0, no head",)
ALL = OWN | {name: (FAMILIES[name][0], "last:1") for name in (*SOME, *LARGE)}


def batch_for(model, rows=6):
    random = np.random.default_rng(0)

    def one(tensor):
        shape = [rows, *(n or 8 for n in tensor.shape[1:])]
        if "mask" in tensor.name:
            return (np.arange(shape[1]) < np.arange(2, 2 + rows)[:, None]).astype("int32")
        if "float" in tensor.dtype:
            return random.normal(size=shape).astype("float32")
        return random.integers(0, 2, size=shape).astype(tensor.dtype)

    return keras.tree.map_structure(one, graph_of(model)._inputs_struct)


def trained(call, variables, targets):
    """Four updates; targets are found for each output."""
    optimizer = keras.optimizers.SGD(1e-2, momentum=0.9, global_clipnorm=1.0)
    optimizer.build(variables)
    for _ in range(4):
        with tf.GradientTape() as tape:
            outputs = keras.tree.flatten(call())
            errors = [tf.cast(y, "float32") - t for y, t in zip(outputs, targets, strict=True)]
            loss = tf.add_n([tf.reduce_mean(e * e) for e in errors])
        optimizer.apply(tape.gradient(loss, variables), variables)


@pytest.fixture(
    params=[*OWN, *SOME, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
def cut(request):
    """A model with its cut, inside of what a phase sets."""
    keras.utils.set_random_seed(0)
    build, train = ALL[request.param]
    model = build()
    groups = layer_groups(model)
    set_trainable(groups, train, "update")
    with frozen_dropout_off(groups):
        yield model, cut_of(steps_of(model))
    keras.backend.clear_session()


def fed(cut, x):
    """What the suffix takes, and the suffix."""
    (kept,) = run_prefixes([cut], x)
    given = cut.steps.given(x)
    passed = {name: given[key] for name, key in cut.passed.items()}
    return kept | passed, Suffix(cut, {name: found.dtype.name for name, found in kept.items()})


def test_training_on_the_cut_is_training_the_whole(cut):
    model, cut = cut
    x = batch_for(model)
    inputs, suffix = fed(cut, x)
    assert inputs.keys() > cut.passed.keys()
    assert {id(v) for v in suffix.trainable_weights} == {id(v) for v in model.trainable_weights}
    whole = keras.tree.flatten(model(x, training=False))
    for a, b in zip(whole, keras.tree.flatten(suffix(inputs, training=False)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (getattr(a, "_keras_mask", None) is None) == (
            getattr(b, "_keras_mask", None) is None
        )
    targets = [np.random.default_rng(1).normal(size=y.shape).astype("float32") for y in whole]
    start = [v.numpy() for v in model.variables]  # dropout's random numbers too
    found = []
    for call in (lambda: model(x, training=True), lambda: suffix(inputs, training=True)):
        trained(call, model.trainable_weights, targets)
        found.append([v.numpy() for v in model.variables])
        for variable, value in zip(model.variables, start, strict=True):
            variable.assign(value)
    for variable, a, b in zip(model.variables, *found, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6, err_msg=variable.path)
    assert sum(not np.array_equal(a, b) for a, b in zip(start, found[0], strict=True)) > 1


def cut_for(model, train):
    groups = layer_groups(model)
    set_trainable(groups, train)
    with frozen_dropout_off(groups):
        return cut_of(steps_of(model))


def kept_shapes(cut):
    return [cut.shape(name) for name in cut.kept]


def test_operations_that_enlarge_are_left_to_the_suffix():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(2, 1, name="frozen")(inputs)
    x = layers.UpSampling2D(4)(layers.ReLU()(x))
    x = keras.ops.concatenate([x, x], axis=-1)
    x = layers.Conv2D(2, 3, name="block")(x)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(layers.Flatten()(x)))
    assert kept_shapes(cut_for(model, "re:block|logits")) == [(4, 4, 2)]


def test_operations_that_shrink_stay_in_the_prefix():
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Conv2D(5, 1, name="frozen")(inputs)))
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    assert kept_shapes(cut_for(model, "re:logits")) == [(5,)]


def test_an_input_is_passed_on_and_not_kept():
    cut = cut_for(FAMILIES["BERT classifier"][0](), "last:1")
    assert kept_shapes(cut) == [(None, 8)]
    assert list(cut.passed) == ["input_0"]


def random_layer():
    return layers.RandomFlip("horizontal")


@pytest.mark.parametrize("noise", [random_layer, lambda: layers.GaussianNoise(0.1)])
def test_what_is_random_ends_the_prefix(noise):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="below")(inputs)
    x = layers.Conv2D(4, 3, name="above")(noise()(x))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(x))
    for layer in model.layers[:-1]:
        layer.trainable = False
    cut = cut_of(steps_of(model))
    assert [step.layer.name for step in cut.prefix] == ["below"]


def test_what_adds_a_loss_ends_the_prefix():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="below")(inputs)
    x = layers.Dense(4, name="above", activity_regularizer="l2")(x)
    cut = cut_for(keras.Model(inputs, layers.Dense(2, name="logits")(x)), "re:logits")
    assert [step.layer.name for step in cut.prefix] == ["below"]


class WithCall(keras.Model):
    """A functional model that does more than its graph."""

    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


def with_call():
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="below")(inputs)
    return WithCall(inputs, layers.Dense(2, name="logits")(x))


def test_models_that_are_more_than_a_graph_are_not_cut():
    model = with_call()
    with pytest.raises(NotCut, match="WithCall is no functional model, but has a call of its own"):
        steps_of(model)
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="first")(inputs)
    outer = keras.Model(inputs, layers.Dense(2, name="last")(model(x) + 1))
    cut = cut_for(outer, "re:last")
    assert [step.layer.name for step in cut.prefix if step.layer] == ["first", model.name]
    x = batch_for(outer)
    inputs, suffix = fed(cut, x)
    np.testing.assert_array_equal(outer(x), suffix(inputs))


def test_nothing_is_cut_where_nothing_is_frozen():
    with pytest.raises(NotCut, match="no frozen layers below what trains"):
        cut_for(FAMILIES["BERT classifier"][0](), "all")


def test_what_is_kept_of_pictures_is_measured_at_their_size():
    """The backbone inside takes pictures of any size, the task those of one."""
    task = tiny_image_task()
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, "last:1", "freeze")
    cut = cut_of(steps_of(task.network))
    kept = run_prefixes([cut], np.zeros((2, 32, 32, 3), "float32"))[0]
    assert cut.row_bytes(tokens=1) == sum(x.numpy().nbytes for x in kept.values()) / 2 == 4096
    # The stem by each 4 x 4 pixels, and a block at each of these places.
    assert multiply_adds(cut.prefix, cut.steps, tokens=1) == 64 * (4 * 4 * 3 * 16 + 9 * 16 * 16)


def test_cuts_of_several_phases_are_filled_in_one_pass():
    model = FAMILIES["RoBERTa classifier"][0]()
    steps, groups = steps_of(model), layer_groups(model)
    cuts = []
    for train in ("head", "last:1", "last:2"):
        set_trainable(groups, train)
        with frozen_dropout_off(groups):
            cuts.append(cut_of(steps))
    x = batch_for(model)
    together = run_prefixes(cuts, x)
    for cut, found in zip(cuts, together, strict=True):
        (alone,) = run_prefixes([cut], x)
        assert alone.keys() == found.keys()
        for name in alone:
            np.testing.assert_array_equal(alone[name], found[name])
