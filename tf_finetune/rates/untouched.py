"""Trying something with a model that is to leave no trace."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from tensorflow.python.eager import context
from tensorflow.python.ops import stateful_random_ops

# Keras's name for the generator of all random numbers without a seed of their own.
_GENERATOR = "global_seed_generator"
# Counters behind the names of what is made: layers made later are named as ever.
_NAMES = "object_name_uids"


@contextlib.contextmanager
def left_as_found(model: keras.Model) -> Iterator[None]:
    """Puts back, bit for bit, all that training within it changes, even if it fails.

    That is every variable of the model, `trainable` of layers and variables, what
    `compile` set with the optimiser and the metrics and their state, and the global
    random states of Python, NumPy, TensorFlow and Keras.

    Args:
        model: built. Within, compile it with a new optimiser.
    """
    kept = {id(v): v for v in [*model.variables, *model.metrics_variables]}
    before = [(v, v.numpy()) for v in kept.values()]
    layers = [(layer, layer.trainable) for layer in model._flatten_layers()]
    flags = [(v, v.trainable) for v in model.variables]
    compiled = dict(vars(model))
    with _random_states_kept():
        try:
            yield
        finally:
            vars(model).clear()  # around Keras, which would track what is set
            vars(model).update(compiled)
            # Keras hands a layer's flag down to its sublayers; those with the most go first.
            for layer, flag in sorted(layers, key=lambda pair: -len(pair[0]._flatten_layers())):
                layer.trainable = flag
            for variable, flag in flags:
                variable.trainable = flag
            for variable, value in before:
                variable.assign(value)


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    # Seeds of TensorFlow's operations, where `tf.random.set_seed` was called.
    operations: Any = getattr(context.context(), "_rng", None)
    counter = operations.getstate() if operations else None
    keras_own = global_state.get_global_attribute(_GENERATOR)
    # The one of TensorFlow too, without making it as `get_global_generator` would.
    generators = (keras_own, stateful_random_ops.global_generator)
    states = [(g.state, g.state.numpy()) for g in generators if g is not None]
    names = dict(global_state.get_global_attribute(_NAMES) or {})
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if operations:
            operations.setstate(counter)
        for state, value in states:
            state.assign(value)
        # One that did not exist is made with a seed of Python's when it is needed.
        global_state.set_global_attribute(_GENERATOR, keras_own)
        if (counts := global_state.get_global_attribute(_NAMES)) is not None:
            counts.clear()
            counts.update(names)
