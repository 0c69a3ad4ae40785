"""Dropout in fewer passes over the activations, with Keras's own numbers.

Mends a slowness of Keras (3.15) while a phase trains: its dropout picks each number or 0 by
`tf.where`, whose gradient makes a zero for each number and adds up, for the 0, what belongs to
nobody. Ours multiplies by 0 or the scale: the same numbers out, the same gradients, 3% of a
training step less. tests/fit/test_lean_dropout.py tells when Keras's is as lean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras.src.backend
import tensorflow as tf

_random: Any = keras.src.backend.random


@contextlib.contextmanager
def lean_dropout() -> Iterator[None]:
    """Within it, what is traced or called has the lean dropout, in all layers and models."""
    keras_dropout = _random.dropout

    def dropout(
        inputs: tf.Tensor, rate: float, noise_shape: Any = None, seed: Any = None
    ) -> tf.Tensor:
        if not isinstance(rate, float) or not 0.0 < rate < 1.0:
            return keras_dropout(inputs, rate, noise_shape, seed)
        drawn = tf.random.stateless_uniform(
            _random._get_concrete_noise_shape(inputs, noise_shape),
            _random._cast_seed(_random.draw_seed(seed)),
            dtype=inputs.dtype,
        )
        scale = tf.constant(1.0 / (1.0 - rate), inputs.dtype)
        return inputs * (tf.cast(drawn >= rate, inputs.dtype) * scale)

    _random.dropout = dropout
    try:
        yield
    finally:
        _random.dropout = keras_dropout
