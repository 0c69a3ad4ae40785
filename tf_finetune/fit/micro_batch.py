"""A batch that goes through the network a few examples at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_finetune.errors import UserError

# From some examples of a batch, and their share of it, to a list of what is added up
# over the parts, and to tensors (examples, ...), nested, that are joined.
Work = Callable[[Any, tf.Tensor], tuple[list[Any], Any]]


def in_parts(work: Work, batch: Any, micro_batch: int) -> tuple[list[Any], Any]:
    """What `work` gives for a whole batch, while it sees a part of it at a time.

    Args:
        work: traced once for all parts, of which the last may be smaller.
        batch: nested tensors (examples, ...); None where there is nothing.
        micro_batch: examples in a part.

    Returns:
        The sums, where slices such as an embedding's gradient are put behind each
        other, as a whole batch has them; and the joined tensors.

    Raises:
        UserError: for ragged or sparse tensors.
    """
    leaves = tf.nest.flatten(batch)
    given = [leaf for leaf in leaves if leaf is not None]
    for leaf in given:
        if not isinstance(leaf, tf.Tensor):
            raise UserError(
                f"micro_batch is {micro_batch}, but the data hold a {type(leaf).__name__}, which "
                "cannot be divided; give dense tensors, or set micro_batch to 0."
            )
    kinds: list[Any] = []
    outputs: Any = None

    def flat_work(tensors: list[tf.Tensor], share: tf.Tensor) -> Any:
        nonlocal outputs
        rest = iter(tensors)
        packed = [None if leaf is None else next(rest) for leaf in leaves]
        sums, outputs = work(tf.nest.pack_sequence_as(batch, packed), share)
        kinds[:] = [s.shape if _is_slices(s) else type(s) for s in sums]
        slices = [t for s in sums if _is_slices(s) for t in (s.values, s.indices)]
        return [s for s in sums if isinstance(s, tf.Tensor)], slices + tf.nest.flatten(outputs)

    # Traced beforehand, as a loop must know what it carries.
    part = tf.function(flat_work, autograph=False).get_concrete_function(
        [tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in given], tf.TensorSpec([])
    )
    dense, joined = (iter(found) for found in _loop(part, given, micro_batch))
    sums = [
        tf.IndexedSlices(next(joined), next(joined), tf.constant(kind.as_list()))
        if isinstance(kind, tf.TensorShape)
        else None
        if kind is type(None)
        else next(dense)
        for kind in kinds
    ]
    return sums, tf.nest.pack_sequence_as(outputs, list(joined))


def _loop(part: Any, given: list[tf.Tensor], micro_batch: int) -> tuple[list[Any], list[Any]]:
    """Calls `part` on some rows after the others; its outputs added up, and joined."""
    count = tf.shape(given[0])[0]
    # A replica without rows of the last batch has one part without any.
    parts = tf.maximum(-(-count // micro_batch), 1)
    added, joined = part.structured_outputs

    def body(i: tf.Tensor, sums: list[Any], rows: list[tf.TensorArray]) -> Any:
        start, stop = i * micro_batch, tf.minimum((i + 1) * micro_batch, count)
        share = tf.cast(stop - start, tf.float32) / tf.cast(tf.maximum(count, 1), tf.float32)
        more, made = part([t[start:stop] for t in given], share)
        sums = [a + b for a, b in zip(sums, more, strict=True)]
        return i + 1, sums, [row.write(i, m) for row, m in zip(rows, made, strict=True)]

    _, sums, rows = tf.while_loop(
        lambda i, *_: i < parts,
        body,
        (
            tf.constant(0),
            [tf.zeros(t.shape, t.dtype) for t in added],
            [tf.TensorArray(t.dtype, parts, infer_shape=False) for t in joined],
        ),
        # One part's activations alone are alive.
        parallel_iterations=1,
    )
    return sums, [
        tf.ensure_shape(row.concat(), [None, *t.shape[1:]])
        for row, t in zip(rows, joined, strict=True)
    ]


def _is_slices(gradient: Any) -> bool:
    return isinstance(gradient, tf.IndexedSlices)
