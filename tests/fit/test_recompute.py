"""Gradient checkpointing gives the gradients that it would be without."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_backbone
from tf_finetune import Phase, fit_phases
from tf_finetune.errors import UserError
from tf_finetune.fit import recompute
from tf_finetune.fit.recompute import block_layers, check_recomputable, recomputed_blocks
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import set_trainable


class Block(keras.layers.Layer):
    """Dropout that learns of training from around it, a mask, and two outputs."""

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = True
        self.dense = keras.layers.Dense(8, activation="gelu")
        self.dropout = keras.layers.Dropout(0.5)
        self.noise = keras.layers.GaussianNoise(0.1)

    def build(self, shape):
        self.scale = self.add_weight(shape=(8,), initializer="ones", name="scale")
        self.dense.build(shape)

    def call(self, x, gate=None, mask=None, power=1):
        y = self.noise(self.dropout(self.dense(x))) * self.scale**power
        if mask is not None:
            y = y * keras.ops.cast(mask, y.dtype)[..., None]
        if gate is not None:
            y = y * gate
        return x + y, keras.ops.shape(y)[0], keras.ops.mean(y, -1, keepdims=True)


def blocks(**options):
    """Blocks with a mask from below, several inputs and outputs, and a global seed."""
    tokens = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(11, 8, mask_zero=True)(tokens)
    gate = None
    for i in range(3):
        x, _, gate = Block(name=f"block_{i}", **options)(x, gate=gate, power=2)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, keras.layers.Dense(2, name="logits")(x))


def nested(**options):
    x = inputs = keras.Input((8,))
    for i in range(3):
        layers = [keras.Input((8,)), keras.layers.Dense(8, "gelu"), keras.layers.Dropout(0.5)]
        x = keras.Sequential(layers, name=f"part_{i}")(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


class Own(keras.Model):
    """Subclassed; its blocks are called with `training=`, and one of them twice."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = Block(name="block_0"), Block(name="block_1")
        self.logits = keras.layers.Dense(2)

    def call(self, x, training=None):
        x, _, gate = self.first(x, training=training)
        x, _, _ = self.second(x, gate=gate, training=training)
        x, _, _ = self.second(x, gate=None, training=training)
        return self.logits(x)


def bert(**options):
    backbone = tiny_backbone(dropout=0.4)
    pooled = keras.layers.Dropout(0.3)(backbone.output["pooled_output"])
    return keras.Model(backbone.inputs, keras.layers.Dense(2)(pooled))


def hub(family, **options):
    backbone = family(
        vocabulary_size=11,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        dropout=0.4,
        max_sequence_length=8,
        **options,
    )
    return keras.Model(backbone.inputs, keras.layers.Dense(2)(backbone.output))


def opt(**options):
    return hub(keras_hub.models.OPTBackbone)


def deberta(**options):
    return hub(keras_hub.models.DebertaV3Backbone, bucket_size=4)


MODELS = [blocks, nested, Own, bert, opt, deberta]


def made(build):
    keras.utils.set_random_seed(3)
    model = build()
    if build is Own:
        model(batch_for(model))
    return model


def batch_for(model):
    random = np.random.default_rng(0)
    if isinstance(model, Own):
        return tf.constant(random.normal(size=(4, 5, 8)), "float32")

    def values(x):
        shape = [4, *(size or 6 for size in x.shape[1:])]
        if "mask" in x.name:
            return tf.constant(np.arange(6) < random.integers(2, 6, (4, 1)), x.dtype)
        whole = "int" in x.dtype
        drawn = random.integers(0, 2 if "segment" in x.name else 11, shape)
        return tf.constant(drawn if whole else random.normal(size=shape), x.dtype)

    return keras.tree.map_structure(values, model._inputs_struct)


def step_of(model):
    """A traced step: loss, gradients by weight."""

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.cast(model(x, training=True), "float32") ** 2)
        weights = [v.value for v in model.trainable_variables]
        found = tape.gradient(loss, weights)
        return loss, [None if g is None else tf.convert_to_tensor(g) for g in found]

    return step


def seeds_of(model):
    found = [v for v in model.variables if "seed_generator_state" in v.path]
    return [v.numpy().tolist() for v in found]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("build", MODELS)
def test_gradients_are_the_same_under_dropout(build, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    # Graph rewriting changes the order of sums, which shows in bfloat16.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": build is not Own})
    try:
        kept, again = made(build), made(build)
        x = batch_for(kept)
        plain = step_of(kept)
        expected = [plain(x) for _ in range(2)]
        with recomputed_blocks(layer_groups(again)):
            step = step_of(again)
            found = [step(x) for _ in range(2)]
    finally:
        keras.config.set_dtype_policy(before)
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True})
    assert len(seeds_of(kept)) > 1
    assert seeds_of(kept) == seeds_of(again)
    assert expected[0][0] != expected[1][0]  # another mask in each step
    for (loss, gradients), (other, others) in zip(expected, found, strict=True):
        np.testing.assert_allclose(loss, other, rtol=1e-6, atol=0)
        for variable, a, b in zip(kept.trainable_variables, gradients, others, strict=True):
            assert (a is None) == (b is None), variable.path
            if a is not None:
                np.testing.assert_allclose(b, a, rtol=0, atol=1e-6, err_msg=variable.path)


def test_without_the_seeds_the_gradients_would_be_others(monkeypatch):
    """What the plain recipe does; so the test above can fail."""
    monkeypatch.setattr(recompute._Draws, "next", lambda self, draw: draw())
    monkeypatch.setattr(recompute, "effects", lambda graph, start: [])
    kept, again = made(bert), made(bert)
    _, expected = step_of(kept)(batch_for(kept))
    with recomputed_blocks(layer_groups(again)):
        _, found = step_of(again)(batch_for(again))
    apart = [np.abs(a - b).max() for a, b in zip(expected, found, strict=True) if a is not None]
    assert max(apart) > 1e-3


def test_each_block_is_computed_twice_within_and_once_after():
    model = made(bert)
    groups = layer_groups(model)
    calls = []
    for layer in block_layers(groups):
        monkeyed = layer.call

        def call(*args, monkeyed=monkeyed, **kwargs):
            calls.append(1)
            return monkeyed(*args, **kwargs)

        layer.call = call
    x = batch_for(model)
    with recomputed_blocks(groups):
        step_of(model)(x)
        assert len(calls) == 2 * 3
        model(x)  # in inference there is nothing to keep
        assert len(calls) == 3 * 3
    step_of(model)(x)
    assert len(calls) == 4 * 3
    draw = keras.random.SeedGenerator.next
    assert draw.__module__.startswith("keras.")


class Saving(keras.callbacks.Callback):
    def __init__(self, file):
        super().__init__()
        self.file = file

    def on_epoch_end(self, epoch, logs=None):
        self.model.save(self.file)


def fitted(build, on, **options):
    model = made(build)
    x = batch_for(model)
    rows = keras.tree.map_structure(lambda v: np.tile(v, (6, *[1] * (len(v.shape) - 1))), x)
    y = np.random.default_rng(1).normal(size=(24, *model(x).shape[1:])).astype("float32")
    fit_phases(
        model,
        (rows, y),
        phases=[
            Phase(train="head", learning_rate=1e-2),
            Phase(train="last:1", learning_rate=1e-2),
            Phase(train="all", epochs=2, learning_rate=1e-2),
        ],
        loss="mse",
        batch_size=8,
        gradient_checkpointing=on,
        say=lambda line: None,
        **options,
    )
    return model


@pytest.mark.parametrize(("build", "micro_batch"), [(blocks, 0), (Own, 0), (bert, 0), (bert, 3)])
def test_phases_end_with_the_same_weights_and_seeds(build, micro_batch, tmp_path):
    saving = [Saving(tmp_path / "model.keras")] if build is bert else []
    kept = fitted(build, on=False, micro_batch=micro_batch)
    again = fitted(build, on=True, micro_batch=micro_batch, callbacks=saving)
    assert seeds_of(kept) == seeds_of(again)
    for a, b in zip(kept.weights, again.weights, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6, err_msg=a.path)
    if saving:
        loaded = keras.models.load_model(tmp_path / "model.keras")
        for a, b in zip(again.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(a, b)


class Losing(Block):
    def call(self, x, **kwargs):
        self.add_loss(keras.ops.mean(x))
        return super().call(x, **kwargs)


class Unseeded(Block):
    def call(self, x, **kwargs):
        return super().call(tf.nn.dropout(x, 0.5), **kwargs)


class Counting(Block):
    def build(self, shape):
        super().build(shape)
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, **kwargs):
        self.count.assign_add(1.0)
        return super().call(x, **kwargs)


class Inner(Block):
    """The same, but deep in a function of its own."""

    def call(self, x, **kwargs):
        return super().call(tf.function(lambda x: tf.nn.dropout(x, 0.5))(x), **kwargs)


def chain(kind):
    x = inputs = keras.Input((5, 8))
    for i in range(2):
        x, _, _ = kind(name=f"block_{i}")(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def flat():
    x = inputs = keras.Input((8,))
    for i in range(3):
        x = keras.layers.Dense(8, name=f"block_{i}_dense")(x)
        x = keras.layers.Dropout(0.5, name=f"block_{i}_dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: chain(Losing), r"the layer block_\d \(Losing\) .* adds a loss of its own"),
        (lambda: chain(Unseeded), r"block_\d \(Unseeded\) .* twice .*: RandomUniform\. Leave"),
        (lambda: chain(Counting), r"block_\d \(Counting\) .* twice .*: AssignVariableOp\."),
        (lambda: chain(Inner), r"block_\d \(Inner\) .* twice .*: RandomUniform\."),
        (flat, "block_0 of the model .* is a stretch of its graph: block_0_dense, block_0_drop"),
    ],
)
def test_what_cannot_be_computed_twice_is_refused(model, message):
    model = model()
    before = [v.numpy() for v in model.variables]
    x = np.zeros((8, *model.input_shape[1:]), "float32")
    with pytest.raises(UserError, match="gradient_checkpointing .*" + message):
        fit_phases(
            model,
            (x, np.zeros((8, *model.output_shape[1:]), "float32")),
            phases=[Phase(train="head"), Phase()],
            loss="mse",
            gradient_checkpointing=True,
            say=lambda line: None,
        )
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def normed():
    x = inputs = keras.Input((8,))
    for i in range(3):
        layers = [keras.Input((8,)), keras.layers.Dense(8), keras.layers.BatchNormalization()]
        x = keras.Sequential(layers, name=f"part_{i}")(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def test_statistics_that_move_are_refused_and_frozen_ones_are_not():
    model = normed()
    groups = layer_groups(model)
    set_trainable(groups, "all", "freeze")
    check_recomputable(groups)
    set_trainable(groups, "all", "update")
    with pytest.raises(UserError, match=r"part_\d \(Sequential\) twice .*: AssignVariableOp"):
        check_recomputable(groups)


def test_a_setting_without_effect_is_refused():
    data, phases = (np.zeros((8, 8)), np.zeros((8, 2))), [Phase(train="head")]
    with pytest.raises(UserError, match="gradient_checkpointing is True, but all phases"):
        fit_phases(flat(), data, phases=phases, loss="mse", gradient_checkpointing=True)
