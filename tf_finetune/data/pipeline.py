"""The order of examples, and batches as a tf.data.Dataset."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tf_finetune.data.labels import classes_of
from tf_finetune.data.pictures.threads import in_order
from tf_finetune.data.sampling import balanced_sample
from tf_finetune.errors import UserError

# Batches are cut from runs of this many batches' examples sorted by length: long
# enough for little padding, short enough that neighbours change between epochs.
_RUN = 50
_failed: list[UserError] = []


class Noise(Protocol):
    """Changes batches of rows at random; what it is given stays as it is."""

    def __call__(self, batch: Any, generator: np.random.Generator) -> Any:
        """The changed batch, which the generator decides."""

    def each(self, batch: Any, seeds: Sequence[int]) -> Any:
        """The changed batch, in which the change of a row follows from its own seed alone."""


class Store(Protocol):
    """Inputs of numbered rows: token ids, pictures, or features computed before.

    A store whose batches take long to make has an attribute `ahead`: so many are made at
    the same time, in threads. What they hold is the same. One that does not have each row
    may say what it gives by a method `spec`.
    """

    lengths: np.ndarray

    def batch(self, rows: np.ndarray) -> Any:
        """The model's input for these rows."""


def plan_epoch(
    lengths: np.ndarray,
    batch_size: int,
    seed: int,
    epoch: int,
    classes: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The batches of one epoch: a pure function of its arguments.

    Args:
        lengths: (n,) length of each example; similar ones share a batch.
        batch_size: examples a batch; one batch of the epoch may be smaller.
        seed: of the run.
        epoch: counted from 0.
        classes: (n,) of each example, which are then drawn as by `balanced_sample`.

    Returns:
        Arrays of positions into `lengths`; together each position once, or, with
        `classes`, n positions.
    """
    generator = np.random.default_rng([seed, epoch])
    if classes is None:
        order = generator.permutation(len(lengths))
    else:
        order = balanced_sample(classes, generator)
    batches = []
    for start in range(0, len(order), batch_size * _RUN):
        run = order[start : start + batch_size * _RUN]
        run = run[np.argsort(lengths[run], kind="stable")]
        batches += [run[i : i + batch_size] for i in range(0, len(run), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def training_dataset(
    store: Store,
    labels: np.ndarray,
    rows: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    first_batch: int = 0,
    noise: Noise | None = None,
    version: Callable[[np.ndarray, int], np.ndarray] | None = None,
    balanced: bool = False,
) -> tf.data.Dataset:
    """Endless (inputs, labels) batches, epoch after epoch, each in its own order.

    Args:
        store: gives the inputs of rows.
        labels: aligned with the store's rows.
        rows: (n,) the rows to train on; an epoch is ceil(n / batch_size) batches.
        batch_size: examples a batch.
        seed: of the order.
        first_epoch: the epoch to begin with.
        first_batch: of that epoch, the batch to begin with.
        noise: changes each batch; what it does follows from the seed, the epoch and the
            batch's number in it.
        version: from some rows and an epoch to the rows of the store that stand for them.
        balanced: all classes come equally often, as by `balanced_sample`.
    """
    lengths, classes = store.lengths[rows], classes_of(labels[rows]) if balanced else None

    def planned() -> Iterator[tuple[int, int, np.ndarray]]:
        for epoch in itertools.count(first_epoch):
            plan = plan_epoch(lengths, batch_size, seed, epoch, classes)
            first = first_batch if epoch == first_epoch else 0
            for number, batch in enumerate(plan[first:], first):
                yield epoch, number, rows[batch]

    def make(planned: tuple[int, int, np.ndarray]) -> tuple[Any, np.ndarray]:
        epoch, number, batch = planned
        inputs = store.batch(version(batch, epoch) if version else batch)
        if noise:
            inputs = noise(inputs, np.random.default_rng([seed, epoch, number]))
        return inputs, labels[batch]

    return _dataset(store, labels, lambda: _made(store, make, planned()))


def evaluation_dataset(
    store: Store, labels: np.ndarray, rows: np.ndarray, *, batch_size: int
) -> tf.data.Dataset:
    """One pass over the rows in the order of `evaluation_order`."""
    ordered = rows[evaluation_order(store, rows)]
    chunks = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]

    def make(chunk: np.ndarray) -> tuple[Any, np.ndarray]:
        return store.batch(chunk), labels[chunk]

    dataset = _dataset(store, labels, lambda: _made(store, make, chunks))
    return dataset.apply(tf.data.experimental.assert_cardinality(len(chunks)))


def evaluation_order(store: Store, rows: np.ndarray) -> np.ndarray:
    """Positions in `rows`, shortest example first."""
    return np.argsort(store.lengths[rows], kind="stable")


def _made(
    store: Store, make: Callable[[Any], tuple[Any, np.ndarray]], planned: Iterable[Any]
) -> Iterator[tuple[Any, np.ndarray]]:
    ahead = getattr(store, "ahead", 0)
    return in_order(make, planned, ahead) if ahead else map(make, planned)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Within it, what stopped the making of a batch is raised as it is.

    TensorFlow makes an error of its own of it, in which a message is lost.
    """
    _failed.clear()
    try:
        yield
    except tf.errors.OpError:
        if _failed:
            raise _failed[-1] from None
        raise


def _remembering(batches: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from batches
    except UserError as error:
        _failed.append(error)
        raise


def _dataset(store: Store, labels: np.ndarray, batches: Any) -> tf.data.Dataset:
    def spec(array: np.ndarray) -> tf.TensorSpec:
        # Token axes vary in length; a feature's width does not.
        tokens = array.dtype == np.int32 and array.ndim == 2
        return tf.TensorSpec([None, None] if tokens else [None, *array.shape[1:]], array.dtype)

    given = getattr(store, "spec", None)
    inputs = given() if given else tf.nest.map_structure(spec, store.batch(np.array([0])))
    signature = inputs, spec(labels[:1])
    held = weakref.ref(batches)

    def begin() -> Iterator[Any]:
        # TensorFlow keeps what it is given here until the process ends, and with it the
        # examples of every run.
        found = held()
        if found is None:
            raise RuntimeError("the dataset was given back before it was read")
        return _remembering(found())

    dataset = tf.data.Dataset.from_generator(begin, output_signature=signature)
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    dataset.kept = batches  # datasets made from this one keep it
    return dataset
