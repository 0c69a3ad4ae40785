"""Lean dropout, beside Keras's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.fit.lean_dropout import lean_dropout

NUMBERS = np.random.default_rng(0).normal(size=(16, 5, 8)).astype("float32")
SEED = keras.random.SeedGenerator(5)


def outputs(rate, noise_shape, dtype):
    """What dropout gives, and its gradient, traced as in a train step."""

    SEED.state.assign([5, 0])

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = keras.src.backend.random.dropout(x, rate, noise_shape, SEED)
            loss = tf.reduce_sum(y * tf.cast(NUMBERS[::-1], dtype))
        return y, tape.gradient(loss, x, unconnected_gradients="zero")

    traced = step.get_concrete_function(tf.TensorSpec((None, 5, 8), dtype))
    kinds = {node.op for node in traced.graph.as_graph_def().node}
    return [keras.ops.convert_to_numpy(tf.cast(x, "float32")) for x in traced(x_of(dtype))], kinds


def x_of(dtype):
    return tf.cast(NUMBERS, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.37, 0.0, 1.0])
@pytest.mark.parametrize("noise_shape", [None, (None, 1, None)])
def test_numbers_and_gradients_are_those_of_keras(dtype, rate, noise_shape):
    keras_numbers, _ = outputs(rate, noise_shape, dtype)
    with lean_dropout():
        numbers, _ = outputs(rate, noise_shape, dtype)
    for ours, theirs in zip(numbers, keras_numbers, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert rate in (0.0, 1.0) or 0 < np.mean(keras_numbers[0] == 0) < 1


def test_keras_still_needs_it():
    _, kinds = outputs(0.1, None, "float32")
    with lean_dropout():
        _, lean = outputs(0.1, None, "float32")
    assert "SelectV2" in kinds, "Keras's dropout is lean now: remove fit/lean_dropout.py"
    assert "SelectV2" not in lean


def test_layers_draw_the_same_and_keras_has_its_own_back_after_an_error():
    before = keras.src.backend.random.dropout
    kept = keras.layers.Dropout(0.4, seed=7)(NUMBERS, training=True)
    lean = []

    def failing():
        with lean_dropout():
            lean.append(keras.layers.Dropout(0.4, seed=7)(NUMBERS, training=True))
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    np.testing.assert_array_equal(lean[0], kept)
    assert keras.src.backend.random.dropout is before
