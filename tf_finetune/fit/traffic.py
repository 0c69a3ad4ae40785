"""What replicas send each other in an update, and what that costs."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

_INDEX = 8  # bytes of a row's number


def reduced_bytes(model: keras.Model, rows: int = 0) -> int:
    """The bytes of the gradients that a replica has summed with the others' in each update.

    Only what trains is summed. A layer `Embedding` gives only the rows that its tokens
    have chosen, which all others are sent.

    Args:
        model: with `trainable` as the phase has it.
        rows: tokens of a replica's part of a batch, with those of the padding.
    """
    tables = {
        id(layer._embeddings): layer._embeddings
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
    }
    total = 0
    for variable in model.trainable_variables:
        width = tf.as_dtype(variable.dtype).size
        if id(variable) in tables:
            total += rows * (variable.shape[-1] * width + _INDEX)
        else:
            total += math.prod(variable.shape) * width
    return total


def efficiency(seconds: float, reduced: int, hosts: int, gigabits: float) -> float:
    """The share of its time in which a host computes, if sending does not overlap with it.

    A ring all-reduce sends each byte 2 (n - 1) / n times over each link (Patarasuk & Yuan
    2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").

    Args:
        seconds: of a replica's part of an update, without sending.
        reduced: bytes, as by `reduced_bytes`.
        hosts: that train together, with one link each.
        gigabits: a second, of a link in each direction.
    """
    sending = 2 * (hosts - 1) / hosts * reduced / (gigabits * 1e9 / 8)
    return seconds / (seconds + sending)
