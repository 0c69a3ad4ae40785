"""Whether training on a cut is the same training, tried on a few rows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.fit.recompute import effects
from tf_finetune.model.blocks import Groups
from tf_finetune.model.freezing import frozen_dropout_off
from tf_finetune.model.slicing import Cut, NotCut, Suffix, run_prefixes

# What rounding may make of numbers, relative to the largest.
_CLOSE, _ROUGH = 1e-3, 0.1
_ROWS = 8


def some_of(count: int) -> np.ndarray:
    """The places of the rows that a cut is tried on, among `count`."""
    return np.linspace(0, count - 1, _ROWS).astype("int64")


def check_cut(
    cut: Cut,
    suffix: Suffix,
    groups: Groups,
    x: Any,
    kept: dict[str, np.ndarray],
    lengths: np.ndarray,
) -> None:
    """Compares what is kept, and what comes of it, with the whole network.

    Args:
        cut: of the network.
        suffix: what trains on what is kept.
        groups: of the network.
        x: its inputs for some rows, of different lengths, so that what depends on padding
            is found.
        kept: what is kept of the same rows.
        lengths: tokens of each.

    Raises:
        NotCut: where training on the cut would be another training.
    """
    training = tf.function(lambda x: run_prefixes([cut], x, training=True), autograph=False)
    with frozen_dropout_off(groups):
        concrete = training.get_concrete_function(tf.nest.map_structure(tf.constant, x))
        if does := effects(concrete.graph):
            raise NotCut(f"its frozen part does more than compute: {', '.join(does)}")
        (found,) = training(tf.nest.map_structure(tf.constant, x))
    if any(step.layer.losses for step in cut.prefix if step.layer is not None):
        raise NotCut("its frozen part adds a loss")
    half = {*suffix.dtypes.values(), *(str(a.dtype) for a in kept.values())}
    most = _ROUGH if half & {"bfloat16", "float16"} else _CLOSE
    for name, array in found.items():
        for i, length in enumerate(lengths):
            place = tuple(slice(length if n is None else n) for n in cut.shape(name))
            if _apart(array.numpy()[i][place], kept[name][i][place]) > most:
                raise NotCut("its frozen part gives something else in training")
    whole, parts = (
        [_without_padding(one, lengths) for one in keras.tree.flatten(given)]
        for given in (groups.model(x, training=False), suffix(kept, training=False))
    )
    if any(_apart(a, b) > most for a, b in zip(whole, parts, strict=True)):
        raise NotCut("what it gives depends on how far rows are padded")


def _without_padding(outputs: Any, lengths: np.ndarray) -> np.ndarray:
    """Outputs (rows, tokens, ...) with zeros for padding; others, of whole rows, as they are."""
    array = np.array(outputs, "float64")
    if array.ndim > 2:
        array[np.arange(array.shape[1]) >= lengths[:, np.newaxis]] = 0
    return array


def _apart(a: Any, b: Any) -> float:
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    return float(np.max(np.abs(a - b), initial=0) / max(np.max(np.abs(a), initial=0), 1))
