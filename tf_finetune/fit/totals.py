"""The sums behind metrics, to which each replica adds its own rows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.fit.replicas import all_summed
from tf_finetune.fit.strategy import is_chief


def brought_together(model: Any) -> tuple[dict[str, Any], list[tf.Tensor]]:
    """Leaves the sums of all replicas with the first, and zeros with the others.

    So the chief alone can save them, without a word to other hosts, and what goes on from
    there adds up the same numbers in the same order. One message for all metrics.

    Args:
        model: whose metrics have seen a batch; called in a `tf.function`.

    Returns:
        What metrics come to, by name, and the sum and the count behind the mean loss.
    """
    strategy = tf.distribute.get_strategy()
    found = strategy.run(_bring_together, args=(model,))
    return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], found)


def _bring_together(model: Any) -> tuple[dict[str, Any], list[tf.Tensor]]:
    sums = [v for v in model.metrics_variables if _is_sum(v)]
    for dtype in sorted({v.dtype for v in sums}):
        them = [v for v in sums if v.dtype == dtype]
        whole = all_summed([tf.concat([tf.reshape(v.value, [-1]) for v in them], 0)])[0]
        for variable, part in zip(them, tf.split(whole, [_size(v) for v in them]), strict=True):
            variable.assign(tf.reshape(part, variable.shape))
    logs = model.get_metrics_result()
    loss = [tf.convert_to_tensor(v.value) for v in model._loss_tracker.variables]
    is_first = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0)
    for variable in sums:
        value = tf.convert_to_tensor(variable.value)
        variable.assign(tf.where(is_first, value, tf.zeros_like(value)))
    return logs, loss


def value_here(variable: keras.Variable) -> tf.Tensor:
    """What the first replica of this host has of a variable; asks no other host."""
    copies = tf.distribute.get_strategy().experimental_local_results(variable.value)
    return tf.convert_to_tensor(copies[0])


def put(variable: keras.Variable, array: Any) -> None:
    """Gives a variable, on all hosts, what the chief once had from `value_here`."""
    if not _is_sum(variable):
        variable.assign(array)
        return
    copies = tf.distribute.get_strategy().experimental_local_results(variable.value)
    for number, copy in enumerate(copies):
        copy.assign(array if is_chief() and not number else np.zeros_like(array))


def _is_sum(variable: keras.Variable) -> bool:
    """Whether each replica adds to a number of its own, which are added up when it is read."""
    value = variable.value
    return (
        isinstance(value, tf.distribute.DistributedValues)
        and value.synchronization == tf.VariableSynchronization.ON_READ
        and value.aggregation == tf.VariableAggregation.SUM
    )


def _size(variable: keras.Variable) -> int:
    return int(np.prod(variable.shape))
