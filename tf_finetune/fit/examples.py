"""The examples of a phase, in the form that `keras.Model.fit` takes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.data.labels import classes_of
from tf_finetune.data.pipeline import Noise, Store, evaluation_dataset, training_dataset
from tf_finetune.errors import UserError
from tf_finetune.fit.steps import evaluating
from tf_finetune.fit_settings import FitConfig
from tf_finetune.value_checks import whole_number


@dataclasses.dataclass(slots=True, kw_only=True)
class Examples:
    """The examples of a phase.

    Attributes:
        train: the arguments of `keras.Model.fit` that give it its training batches.
        steps: batches, and so updates, an epoch.
        size: training examples an epoch, as far as known; for the speed that is shown.
        validation: as `validation_data` of `fit`; None leaves the last epoch the best.
        batch_size: of validation arrays.
    """

    train: dict[str, Any]
    steps: int
    size: int
    validation: Any = None
    batch_size: int | None = None


def examples_of_rows(
    store: Store,
    labels: np.ndarray,
    train: np.ndarray,
    validation: np.ndarray,
    fit: FitConfig,
    noise: Noise | None = None,
    begin: tuple[int, int] = (0, 0),
    version: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> Examples:
    """Rows of a run, in endless batches whose order follows from the seed and the epoch.

    Args:
        store: inputs by row.
        labels: aligned with the store's rows.
        train: rows to train on.
        validation: rows to judge epochs by.
        fit: batch sizes, seed, sampling and class weights.
        noise: for the rows to train on.
        begin: the epoch and the batch of it that come first, counted from 0.
        version: of the rows to train on, as in `training_dataset`.
    """
    steps = math.ceil(len(train) / fit.global_batch)
    batches = training_dataset(
        store,
        labels,
        train,
        batch_size=fit.global_batch,
        seed=fit.seed,
        first_epoch=begin[0],
        first_batch=begin[1],
        noise=noise,
        version=version,
        balanced=fit.sampling == "balanced",
    )
    given = {"x": batches, "steps_per_epoch": steps, "shuffle": False}  # in their own order
    if fit.class_weights == "balanced":
        given["class_weight"] = balanced_weights(classes_of(labels[train]))
    return Examples(
        train=given,
        steps=steps,
        size=len(train),
        validation=evaluation_dataset(store, labels, validation, batch_size=fit.eval_batch),
    )


def balanced_weights(labels: np.ndarray) -> dict[int, float]:
    """A weight for each class, so that all weigh the same and rows 1.0 in the mean.

    King & Zeng 2001, "Logistic regression in rare events data"; scikit-learn's
    `class_weight="balanced"`.

    Args:
        labels: int (n,).

    Returns:
        A weight for each number up to the largest, as Keras wants it; 1 for what never occurs.
    """
    counts = np.bincount(labels)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return dict(enumerate(np.where(counts, weights, 1.0).tolist()))


def given_examples(train: Any, validation: Any, batch_size: int, steps: int | None) -> Examples:
    """What a user hands over as in `fit_phases`, with the batches of an epoch counted.

    Raises:
        UserError: for a kind of data that `fit_phases` does not take, data without a
            batch, or a length that is not known.
    """
    whole_number("batch_size", batch_size, 1)
    if isinstance(train, tuple | list) and 2 <= len(train) <= 3:
        size = len(keras.tree.flatten(train[0])[0])
        names = ("x", "y", "sample_weight")
        given = dict(zip(names, train, strict=False)) | {"batch_size": batch_size}
        found = math.ceil(size / batch_size)
    elif isinstance(train, tf.data.Dataset):
        given, found = {"x": train, "shuffle": False}, int(train.cardinality())
        size = found * batch_size
    elif isinstance(train, keras.utils.PyDataset):
        given, found = {"x": train}, train.num_batches or -1
        size = found * batch_size
    else:
        raise _no_data("train", train)
    if steps is not None:
        if steps < 1:
            raise UserError(f"steps_per_epoch is {steps}; it must be at least 1.")
        given["steps_per_epoch"] = steps
        if not isinstance(train, tf.data.Dataset) and 0 < found != steps:
            # Keras ends such an epoch early, and the schedule would not.
            raise UserError(
                f"steps_per_epoch is {steps}, but train holds {found} batches, and an epoch of it "
                "is these; leave steps_per_epoch out, or give a tf.data.Dataset."
            )
        if isinstance(train, tf.data.Dataset) and found != steps:
            # Keras goes on where the epoch before ended, also at an end.
            given["x"] = train.repeat()
    elif found < 0:
        raise UserError(
            "train does not tell how many batches it holds, and the schedule of the rate needs "
            "to know; give steps_per_epoch."
        )
    elif found == 0:
        raise UserError("train is empty; give at least one batch.")
    _check_end(validation)
    return Examples(
        train=given,
        steps=steps or found,
        size=size if found > 0 else (steps or 0) * batch_size,
        validation=tuple(validation) if isinstance(validation, list) else validation,
        batch_size=batch_size if isinstance(validation, tuple | list) else None,
    )


def _check_end(validation: Any) -> None:
    """Raises `UserError` for validation without a row, without an end, or that is no data."""
    count = 1
    if isinstance(validation, tf.data.Dataset):
        count = int(validation.cardinality())
    elif isinstance(validation, keras.utils.PyDataset):
        found = validation.num_batches
        count = tf.data.INFINITE_CARDINALITY if found is None else found
    elif isinstance(validation, tuple | list) and 2 <= len(validation) <= 3:
        count = len(keras.tree.flatten(validation[0])[0])
    elif validation is not None:
        raise _no_data("validation", validation)
    if count == tf.data.INFINITE_CARDINALITY:
        raise UserError("validation has no end, and is read to it; give validation.take(n).")
    if count == 0:
        raise UserError("validation is empty; give at least one batch, or leave it out.")


def _no_data(name: str, given: Any) -> UserError:
    return UserError(
        f"{name} is a {type(given).__name__}; give a batched tf.data.Dataset, a "
        "keras.utils.PyDataset, or arrays as a tuple (x, y)."
    )


def validation_figures(model: keras.Model, examples: Examples) -> dict[str, Any]:
    """Validation figures of a compiled model, named as in an epoch's logs; see `plain`."""
    if examples.validation is None:
        return {}
    arrays = examples.validation if isinstance(examples.validation, tuple) else None
    names = ("x", "y", "sample_weight")
    data = dict(zip(names, arrays, strict=False)) if arrays else {"x": examples.validation}
    with evaluating(model):
        found = model.evaluate(**data, batch_size=examples.batch_size, return_dict=True, verbose=0)
    return {f"val_{name}": plain(value) for name, value in found.items()}


def plain(value: Any) -> Any:
    """A figure as a number; of a metric with one for each class as a list."""
    found = np.asarray(value)
    return float(found.reshape(())) if found.size == 1 else found.astype("float64").tolist()
