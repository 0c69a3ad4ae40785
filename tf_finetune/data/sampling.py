"""Epochs in which all classes come equally often."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune.errors import UserError


def balanced_sample(classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many positions as there are, all classes equally often, in random order.

    Rows of a rare class are repeated, all of them equally often before one comes once
    more; of a frequent class some are left out. Over- and undersampling in one (He &
    Garcia 2009, "Learning from Imbalanced Data").

    Args:
        classes: (n,) of each row; a class without a row has no part.
        generator: decides which rows come once more, and which classes where n does
            not divide by their number.

    Returns:
        (n,) positions into `classes`.
    """
    found, counts = np.unique(classes, return_counts=True)
    quotas = np.full(len(found), len(classes) // len(found))
    quotas[generator.permutation(len(found))[: len(classes) % len(found)]] += 1
    drawn = []
    for name, count, quota in zip(found, counts, quotas, strict=True):
        rows = np.flatnonzero(classes == name)
        drawn += [np.repeat(rows, quota // count)]
        drawn += [generator.choice(rows, quota % count, replace=False)]
    return generator.permutation(np.concatenate(drawn))


def balanced_batches(x: Any, y: Any, *, batch_size: int = 32, seed: int = 0) -> tf.data.Dataset:
    """Endless (inputs, classes) batches of arrays, for any `fit` with `steps_per_epoch`.

    An epoch is ceil(n / batch_size) batches, the last of which may be smaller. Each has
    rows of its own, drawn as by `balanced_sample`, which follow from the seed and the
    epoch alone.

    Args:
        x: an array (n, ...), or a dict or tuple of such arrays.
        y: int (n,), the class of each row.
        batch_size: rows a batch.
        seed: of the rows.

    Raises:
        UserError: if `y` holds no classes, is not as long as `x`, or is empty.
    """
    inputs = tf.nest.map_structure(np.asarray, tuple(x) if isinstance(x, list) else x)
    classes = np.asarray(y)
    if classes.ndim != 1 or classes.dtype.kind not in "iub":
        raise UserError(
            f"y is {classes.dtype} of shape {classes.shape}; give the class of each row as a "
            "whole number, shape (n,)."
        )
    sizes = {len(array) for array in tf.nest.flatten(inputs)}
    if sizes != {len(classes)} or not len(classes):
        raise UserError(
            f"x has {', '.join(map(str, sorted(sizes)))} rows and y {len(classes)}; give as many "
            "of both, at least one."
        )
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1.")

    def batches() -> Iterator[tuple[Any, np.ndarray]]:
        for epoch in itertools.count():
            order = balanced_sample(classes, np.random.default_rng([seed, epoch]))
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                yield tf.nest.map_structure(lambda array, rows=rows: array[rows], (inputs, classes))

    signature = tf.nest.map_structure(
        lambda array: tf.TensorSpec([None, *array.shape[1:]], array.dtype), (inputs, classes)
    )
    return generated(batches, signature)


def generated(batches: Callable[[], Iterator[Any]], signature: Any) -> tf.data.Dataset:
    """A dataset of what a generator yields, which is given back with the dataset.

    TensorFlow keeps what `from_generator` is given until the process ends, and with it the
    examples of every run.

    Args:
        batches: begins a pass.
        signature: `tf.TensorSpec`s of an element.
    """
    held = weakref.ref(batches)

    def begin() -> Iterator[Any]:
        found = held()
        assert found is not None
        return found()

    dataset = tf.data.Dataset.from_generator(begin, output_signature=signature)
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    dataset.kept = batches  # datasets made from this one keep it
    return dataset
