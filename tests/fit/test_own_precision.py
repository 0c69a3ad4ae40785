"""A model of the user's own computes in another type while it trains, and only then."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import LayerwiseAdamW, Phase, UserError, fit_phases

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
Y = (X[:, :2].sum(1) > 0).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
PHASES = [Phase(train="head", learning_rate=1e-2), Phase(epochs=2, learning_rate=1e-2)]


def functional(dtype="float32"):
    inputs = keras.Input((6,))
    x = keras.layers.Rescaling(1.7, dtype=dtype)(inputs)
    for i in range(2):
        y = keras.layers.Dense(6, activation="gelu", name=f"block_{i}_dense", dtype=dtype)(x)
        y = keras.layers.BatchNormalization(name=f"block_{i}_norm", dtype=dtype)(y)
        x = keras.layers.LayerNormalization(name=f"block_{i}_end", dtype=dtype)(x + y)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits", dtype="float32")(x))


def nested(dtype="float32"):
    dense = [keras.layers.Dense(8, activation="tanh", dtype=dtype) for _ in range(2)]
    base = keras.Sequential([keras.Input((6,)), *dense], name="base")
    return keras.Sequential([keras.Input((6,)), base, keras.layers.Dense(2, dtype="float32")])


class Subclassed(keras.Model):
    def __init__(self, dtype="float32", scale=1.0):
        super().__init__(dtype=dtype)
        self.first = keras.layers.Dense(8, name="block_0", dtype=dtype)
        self.second = keras.layers.Dense(8, name="block_1", dtype=dtype)
        self.logits = keras.layers.Dense(2, name="logits", dtype="float32")
        self.scale = scale

    def call(self, x):
        return self.logits(self.second(self.first(x)) * self.scale)


def made(build, *dtype):
    keras.utils.set_random_seed(0)
    model = build(*dtype)
    model(X[:1])
    return model


def fit(model, *, phases=PHASES, said=None, **options):
    keras.utils.set_random_seed(0)
    say = (lambda line: None) if said is None else said.append
    options = {"loss": LOSS, "batch_size": 16, "say": say} | options
    return fit_phases(model, (X, Y), (X[:16], Y[:16]), phases, **options)


@pytest.mark.parametrize("build", [functional, nested, Subclassed])
def test_it_equals_a_model_that_was_built_so_and_goes_back_to_float32(build):
    ours, built, said = made(build), made(build, "mixed_bfloat16"), []
    policies = [layer.dtype_policy.name for layer in ours._flatten_layers()]
    fit(ours, precision="bfloat16", said=said)
    fit(built)
    assert said[0] == "all but the head computes in bfloat16"
    for a, b in zip(ours.weights, built.weights, strict=True):
        assert a.dtype == "float32"
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    assert [layer.dtype_policy.name for layer in ours._flatten_layers()] == policies
    plain = made(build)
    plain.set_weights(ours.get_weights())
    plain.compile(loss=LOSS)
    assert ours.evaluate(X, Y, verbose=0) == plain.evaluate(X, Y, verbose=0)
    assert ours.evaluate(X, Y, verbose=0) != built.evaluate(X, Y, verbose=0)


def test_none_and_float32_leave_a_model_of_float32_as_it_is():
    plain, same = made(nested), made(nested)
    fit(plain)
    fit(same, precision="float32")
    for a, b in zip(plain.weights, same.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_auto_is_what_the_processor_has(monkeypatch):
    said = []
    monkeypatch.setattr("tf_finetune.fit.precision._cpu_has_bfloat16", lambda: True)
    fit(made(nested), precision="auto", said=said, phases=PHASES[:1])
    assert "bfloat16" in said[0]


def test_float16_scales_the_loss():
    """Gradients of 1e-8 are 0 in float16, without it."""

    def tiny(labels, outputs):
        return keras.ops.mean(keras.ops.square(outputs), -1) * 1e-8

    moves = []
    for precision in (None, "float16"):
        model = made(nested)
        before = model.get_weights()
        given = {"optimizer": keras.optimizers.SGD(), "loss": tiny, "spike_guard": 0}
        fit(model, precision=precision, phases=[Phase(learning_rate=1e6)], **given)
        pairs = zip(before, model.get_weights(), strict=True)
        moves.append(np.concatenate([(b - a).ravel() for a, b in pairs]))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    np.testing.assert_allclose(moves[1], moves[0], atol=0.02 * np.abs(moves[0]).max())


def test_the_policies_come_back_where_training_fails():
    class Failing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError

    model = made(nested)
    with pytest.raises(RuntimeError):
        fit(model, precision="bfloat16", callbacks=[Failing()])
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}


def quantised():
    model = nested()
    model.layers[0].layers[0].quantize("int8")
    return model


def raw():
    return Subclassed(scale=tf.constant(2.0))


@pytest.mark.parametrize(
    ("build", "precision", "message"),
    [
        (nested, "half", 'precision is "half"; allowed: auto, float32, bfloat16, float16'),
        (quantised, "bfloat16", "dense.* is quantised, and computes in a type of its own"),
        (lambda: nested("float64"), "float16", "kernel is a float64; variables must be float32"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), "bfloat16", "all of .* is a head"),
        (raw, "bfloat16", "cannot compute in it: .*cast what it makes itself"),
    ],
)
def test_what_cannot_compute_in_another_type_is_refused(build, precision, message):
    model = made(build)
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        fit(model, precision=precision)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_averages_and_parts_and_a_strategy_go_with_it():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = made(nested)
        options = {"ema": 0.9, "micro_batch": 5, "r_drop": 0.0}
        result = fit(model, precision="bfloat16", optimizer=LayerwiseAdamW(1e-3), **options)
    assert all(np.isfinite(row["loss"]) for row in result.history)
