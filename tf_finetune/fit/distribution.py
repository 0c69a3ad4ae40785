"""Training on several devices or hosts: the strategy, and what Keras 3 gets wrong under one.

Every mend stands here, is called from here, or stands in `strategy`, named with its
defect (Keras 3.15); tests/distribution/test_defects.py tells when one is gone:

1. `repaired`, `_all_reduce_sum_gradients`: Keras clips the gradients of each replica and
   adds them up afterwards, so that the threshold is another one. Ours are added up first.
2. `share_of`: Keras counts the means of replicas alike, however many examples they have:
   an uneven last batch is weighted wrongly. Ours count by their share of the whole batch.
3. `_symbolic_build`: Keras draws a batch of the data to build metrics, which moves shuffled
   data on, and over several hosts fails at its structure. Ours builds from the data's form.
4. `_function`: over several hosts Keras fails at reducing the figures of a step, which are
   single numbers; with several steps an execution it fails under any strategy.
5. `separate_seeds`: the random numbers of all replicas are the same, so that the rows of
   one have the dropout masks of the other's.
6. `_function`, too: TensorFlow's sharding of data that are shuffled without a seed gives some
   rows twice and others never, without a word. Ours has every host read all batches and
   take its own rows of each, and finds out where hosts do not read the same.
7. `check_batch_norms`: BatchNormalization keeps statistics of one replica's examples, and
   those of several hosts drift apart. Refused, where they are not synchronised.
8. `refuse_unsound`: `keras.distribution` does nothing on TensorFlow, and `fit` cannot train
   under a ParameterServerStrategy.
9. `strategy_of`: where hosts meet, TensorFlow takes SIGTERM for itself, and a run would never
   hear of it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.fit.audit import AuditError
from tf_finetune.fit.replicas import (
    NOT_THE_SAME,
    forget_loss,
    keep_loss,
    mark_of,
    replicated,
    separate_seeds,
    share_of,
    slice_of,
)
from tf_finetune.fit.totals import brought_together

# Takes a part of a batch, and its share of that; updates variables.
ReplicaStep = Callable[[Any, tf.Tensor], Any]

_REDUCE = "_all_reduce_sum_gradients"


def refuse_unsound() -> None:
    """Raises `UserError` under a kind of distribution that would train wrongly or not at all."""
    if keras.distribution.distribution() is not None:
        raise UserError(
            "keras.distribution is set, but does nothing on TensorFlow: everything would run on "
            "one device. Unset it (keras.distribution.set_distribution(None)), and set "
            "config.fit.strategy, or use a tf.distribute strategy."
        )
    strategy = tf.distribute.get_strategy()
    if "ParameterServer" in type(strategy).__name__:
        raise UserError(
            "the strategy is a ParameterServerStrategy, under which Keras 3 cannot fit, as it does "
            "not give the workers their data; use a MirroredStrategy or a "
            "MultiWorkerMirroredStrategy."
        )


def check_batch_norms(model: keras.Model) -> None:
    """Raises `UserError` for statistics that would differ between replicas.

    Args:
        model: with `trainable` as it will train.
    """
    for layer in model._flatten_layers() if replicated() else ():
        batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        if batch_norm and layer.trainable and not layer.synchronized:
            raise UserError(
                f"the strategy has {tf.distribute.get_strategy().num_replicas_in_sync} replicas, "
                f"but the layer {layer.name}, a BatchNormalization that trains, would keep "
                "statistics of a part of the examples, other ones on each host. Make it with "
                'synchronized=True, freeze it (batch_norm="freeze" in the Phase, where it is in '
                "the backbone), or train on one device."
            )


def check_alike(model: keras.Model) -> None:
    """Raises `AuditError` unless all replicas, on all hosts, have the same weights bit for bit."""
    if not replicated():
        return
    strategy = tf.distribute.get_strategy()
    copies = [strategy.experimental_local_results(v.value) for v in model.weights]
    here = [_digest(copy) for copy in zip(*copies, strict=True)]
    # Every host comes to the same conclusion, or some would wait for others for ever.
    facts = strategy.gather(tf.constant([[here[0], len({*here})]], tf.int64), axis=0).numpy()
    if (facts != [facts[0, 0], 1]).any():
        raise AuditError(
            f"the {strategy.num_replicas_in_sync} replicas no longer have the same weights; a "
            "layer must have changed a variable of its own by the rows of one replica"
        )


def _digest(weights: Iterable[tf.Tensor]) -> int:
    found = hashlib.blake2b(digest_size=8)
    for weight in weights:
        found.update(np.ascontiguousarray(weight.numpy()).data)
    return int.from_bytes(found.digest(), "big", signed=True)


@contextlib.contextmanager
def repaired(model: Any, train: ReplicaStep | None, test: ReplicaStep) -> Iterator[None]:
    """Within it, a compiled model's `fit` and `evaluate` count each example once, as it weighs.

    Without effect where there is one replica on one host.

    Args:
        model: made under the strategy of the moment.
        train: adds up gradients over the replicas before it applies them; None if the
            model is only evaluated.
        test: the same for evaluation.
    """
    if not replicated():
        yield
        return
    strategy = tf.distribute.get_strategy()
    patched: list[Any] = []

    def make_train_function(force: bool = False) -> None:
        if model.train_function is None or force:
            optimizer = model.optimizer
            for each in (optimizer, getattr(optimizer, "inner_optimizer", optimizer)):
                object.__setattr__(each, _REDUCE, list)  # the step has done so
                patched.append(each)
            model.train_function = _function(model, train)

    def make_test_function(force: bool = False) -> None:
        if model.test_function is None or force:
            model.test_function = _function(model, test)

    own = {
        "_maybe_symbolic_build": functools.partial(_symbolic_build, model),
        "make_train_function": make_train_function,
        "make_test_function": make_test_function,
    }
    try:
        for name, function in own.items():
            object.__setattr__(model, name, function)
        strategy.experimental_distribute_dataset = _whole
        with separate_seeds():
            yield
    finally:
        del strategy.experimental_distribute_dataset
        for name in own:
            vars(model).pop(name, None)
        forget_loss(model)
        for optimizer in patched:
            vars(optimizer).pop(_REDUCE, None)


def _whole(dataset: tf.data.Dataset, options: Any = None) -> tf.data.Dataset:
    """Instead of TensorFlow's sharding: each replica takes its rows of each batch in its step."""
    if any(isinstance(s, tf.SparseTensorSpec) for s in tf.nest.flatten(dataset.element_spec)):
        raise UserError(
            "the data hold sparse tensors, which cannot be divided over replicas; give dense "
            "tensors (tf.sparse.to_dense), or train on one device."
        )
    return dataset


def _function(model: Any, step: ReplicaStep | None) -> Callable[[Any], dict[str, Any]]:
    """What runs one execution: `steps_per_execution` batches of an iterator."""
    assert step
    strategy = tf.distribute.get_strategy()
    several_hosts = strategy.extended._in_multi_worker_mode()
    traced: dict[Any, Any] = {}

    def on_replica(batch: Any, mark: tf.Tensor) -> None:
        part = slice_of(batch)
        step(part, share_of(part, mark))

    def run(*batches: Any) -> tuple[dict[str, Any], list[tf.Tensor]]:
        for batch in batches:
            mark = mark_of(batch) if several_hosts else tf.constant(0, tf.int64)
            strategy.run(on_replica, args=(batch, mark))
        return brought_together(model)

    def function(iterator: Any) -> dict[str, Any]:
        batches = list(itertools.islice(iterator, model.steps_per_execution))
        if not batches:
            raise StopIteration
        spec = getattr(iterator, "element_spec", None)
        key = len(batches), repr(spec)
        if key not in traced:
            # By the data's form, not by that of their first batch: traced once for all.
            form = spec and [spec] * len(batches)
            traced[key] = tf.function(run, form, autograph=False, reduce_retracing=True)
        try:
            logs, loss = traced[key](*batches)
        except tf.errors.InvalidArgumentError as error:
            if NOT_THE_SAME in str(error):
                raise UserError(NOT_THE_SAME) from None
            raise
        keep_loss(model, loss)
        return logs

    return function


def _symbolic_build(model: Any, iterator: Any = None, data_batch: Any = None) -> None:
    if iterator is not None:
        data_batch = keras.tree.map_structure(
            lambda spec: spec if isinstance(spec, tf.TensorSpec) else None,
            iterator._distributed_dataset.element_spec,
        )
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=data_batch)
