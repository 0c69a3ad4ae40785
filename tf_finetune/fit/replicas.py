"""What the replicas of a distribution strategy tell each other within a step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

NOT_THE_SAME = (
    "the workers read different batches of train or validation, so that some rows would come twice "
    "and others never; have every worker read the same: the same files, and shuffled with a seed "
    "(shuffle(n, seed=0), or keras.utils.set_random_seed(0) before)."
)

_LOSS = "_loss_so_far"
# Of hashes: their squares, added up over replicas, must fit into an int64.
_MARKS = 2**20
# Over hosts TensorFlow gathers neither of these.
_SENT_AS = {tf.bfloat16: (tf.bitcast, tf.float16), tf.bool: (tf.cast, tf.int32)}


def replicated() -> bool:
    """Whether a model that trains now does so on several replicas, or over hosts."""
    strategy = tf.distribute.get_strategy()
    return strategy.num_replicas_in_sync > 1 or strategy.extended._in_multi_worker_mode()


def count_of(x: Any) -> tf.Tensor:
    """Examples in inputs (examples, ...), which may be nested."""
    return tf.shape(next(t for t in tf.nest.flatten(x) if t is not None))[0]


def slice_of(batch: Any) -> Any:
    """A replica's own rows of a batch: about as many as others have, maybe none.

    Args:
        batch: nested tensors (examples, ...), the same on all replicas.
    """
    context = tf.distribute.get_replica_context()
    number = tf.cast(context.replica_id_in_sync_group, tf.int64)
    replicas = context.num_replicas_in_sync

    def cut(rows: Any) -> Any:
        if rows is None:
            return None
        count = rows.nrows() if isinstance(rows, tf.RaggedTensor) else tf.shape(rows)[0]
        count = tf.cast(count, tf.int64)
        return rows[count * number // replicas : count * (number + 1) // replicas]

    with tf.device("CPU"):  # only the slice goes to the replica's device
        return tf.nest.map_structure(cut, batch)


def share_of(part: Any, mark: tf.Tensor) -> tf.Tensor:
    """The share of a replica's examples in the whole batch, float32; 0 if it has none.

    Args:
        part: of a batch, the replica's own.
        mark: by `mark_of`, of the whole batch.

    Raises:
        tf.errors.InvalidArgumentError: on all replicas, when run, if their hosts have
            different batches.
    """
    count = tf.cast(count_of(part[0] if isinstance(part, tuple | list) else part), tf.int64)
    total, marks, squares = tf.unstack(all_summed([tf.stack([count, mark, mark * mark])])[0])
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    # By Cauchy and Schwarz these are equal just where all marks are.
    same = tf.debugging.Assert(tf.equal(marks * marks, replicas * squares), [NOT_THE_SAME])
    with tf.control_dependencies([same]):
        total = tf.maximum(total, 1)
    return tf.cast(count, tf.float32) / tf.cast(total, tf.float32)


def mark_of(batch: Any) -> tf.Tensor:
    """An int64 that tells batches apart, by targets, weights and what of inputs is exact.

    Inputs of floating-point numbers may have been computed, on each host a little otherwise.
    """
    parts = list(batch) if isinstance(batch, tuple) else [batch]
    exact = [t for t in _tensors(parts[:1]) if not t.dtype.is_floating] + _tensors(parts[1:])
    mark = tf.constant(0, tf.int64)
    for tensor in exact:
        found = tf.strings.to_hash_bucket_fast(tf.io.serialize_tensor(tensor), _MARKS)
        mark = (31 * mark + found) % _MARKS
    return mark


def _tensors(parts: Any) -> list[tf.Tensor]:
    return [t for t in tf.nest.flatten(parts, expand_composites=True) if t is not None]


def summed(gradients: Sequence[Any]) -> list[Any]:
    """Gradients added up over the replicas; None stays."""
    reduced = iter(all_summed([g for g in gradients if g is not None]))
    return [None if g is None else next(reduced) for g in gradients]


def all_summed(values: list[Any]) -> list[Any]:
    """Each value added up over the replicas, of which each calls this with its own."""
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, values)


def loss_so_far(model: Any) -> list[float]:
    """The sum and the count behind an epoch's mean loss, over all replicas.

    Over hosts a metric that is read asks all of them; after a step it is known already.
    """
    known = vars(model).get(_LOSS) or [v.value for v in model._loss_tracker.variables]
    return [float(value.numpy()) for value in known]


def keep_loss(model: Any, loss: list[tf.Tensor]) -> None:
    """Has `loss_so_far` give these, until the next step or `forget_loss`."""
    object.__setattr__(model, _LOSS, loss)


def forget_loss(model: Any) -> None:
    """Has `loss_so_far` read the metric again."""
    vars(model).pop(_LOSS, None)


def on_all_replicas(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function of a batch, computed by all replicas, a part of its rows by each.

    Args:
        function: from tensors (examples, ...), nested, to such.
    """
    if not replicated():
        return function
    strategy = tf.distribute.get_strategy()

    def together(batch: Any) -> Any:
        parts = strategy.run(lambda whole: function(slice_of(whole)), args=(batch,))
        return tf.nest.map_structure(_gathered, parts)

    return together


def _gathered(parts: Any) -> tf.Tensor:
    """The rows of all replicas, bit for bit."""
    strategy = tf.distribute.get_strategy()
    dtype = strategy.experimental_local_results(parts)[0].dtype
    change, sent = _SENT_AS.get(dtype, (tf.cast, dtype))
    parts = strategy.run(lambda part: change(part, sent), args=(parts,))
    return change(strategy.gather(parts, axis=0), dtype)


@contextlib.contextmanager
def separate_seeds() -> Iterator[None]:
    """Within it, replicas draw different random numbers; the first draws those of one device."""
    draw = keras.random.SeedGenerator.next

    def drawn(generator: keras.random.SeedGenerator, ordered: bool = True) -> tf.Tensor:
        seed = draw(generator, ordered)
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return seed
        # A large odd number: far from where the generator itself will come to.
        step = tf.constant([0, 2654435769], seed.dtype)
        return seed + step * tf.cast(context.replica_id_in_sync_group, seed.dtype)

    try:
        keras.random.SeedGenerator.next = drawn
        yield
    finally:
        keras.random.SeedGenerator.next = draw
