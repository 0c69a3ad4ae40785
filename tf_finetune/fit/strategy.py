"""The strategy by which a run trains on one device, several, or several hosts."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from tf_finetune.errors import UserError

# For trying `mirrored` on a machine without GPUs: how many devices it is to have.
LOGICAL_CPUS = "TF_FINETUNE_LOGICAL_CPUS"

_TESTED = ("3.15", "3.16")  # Keras versions from the first up to before the second


def strategy_of(name: str) -> tf.distribute.Strategy:
    """The strategy of a run; call it before TensorFlow computes anything.

    Args:
        name: `none`, for that of the moment; `mirrored`, all GPUs of this host, or without
            one as many CPU devices as `TF_FINETUNE_LOGICAL_CPUS` says; `multi_worker`,
            this process and those that `TF_CONFIG` names; `tpu`.

    Returns:
        The same object each time: two of one kind would mix up their messages.

    Raises:
        UserError: if there is none here, or TensorFlow has begun to compute.
    """
    return tf.distribute.get_strategy() if name == "none" else _made(name)


@functools.cache
def _made(name: str) -> tf.distribute.Strategy:
    _warn_of_versions()
    try:
        return {"mirrored": _mirrored, "multi_worker": _multi_worker, "tpu": _tpu}[name]()
    except RuntimeError as error:  # of TensorFlow, about the order of things
        raise UserError(
            f'config.fit.strategy is "{name}", but TensorFlow has begun to compute in this process '
            f"({str(error).splitlines()[0]}) Set it first of all, in a new process."
        ) from None


def is_chief(strategy: tf.distribute.Strategy | None = None) -> bool:
    """Whether this process is the one that writes files: the first worker, or the only one.

    Args:
        strategy: by default that of the moment.
    """
    strategy = strategy or tf.distribute.get_strategy()
    if not strategy.extended._in_multi_worker_mode():
        return True
    resolver = strategy.cluster_resolver
    chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not chief and resolver.task_id == 0)


def told_by_chief(number: int) -> int:
    """A number of at least 0 that the chief has, on all workers, which wait for each other."""
    return max(_of_all_hosts(number if is_chief() else -1))


def so_on_all_hosts(fact: bool) -> bool:
    """Whether something is so on every worker, which wait for each other."""
    return all(_of_all_hosts(int(fact)))


def _of_all_hosts(number: int) -> list[int]:
    strategy = tf.distribute.get_strategy()
    if not strategy.extended._in_multi_worker_mode():
        return [number]
    return strategy.gather(tf.constant([number], tf.int64), axis=0).numpy().tolist()


@contextlib.contextmanager
def own_folder(shared: Path, strategy: tf.distribute.Strategy) -> Iterator[Path]:
    """The folder that a worker writes into: the run's for the chief, else one that goes away."""
    if is_chief(strategy):
        yield shared
        return
    with tempfile.TemporaryDirectory(prefix="tf_finetune-worker-") as name:
        yield Path(name)


def check_global_batch(name: str, batch: int) -> None:
    """Raises `UserError` where some replica would never have a row."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if batch < replicas:
        raise UserError(
            f"{name} is {batch}, but the strategy has {replicas} replicas, so that some would "
            f"never have a row; set it to at least {replicas}, or use fewer devices."
        )


def _mirrored() -> tf.distribute.Strategy:
    wanted = os.environ.get(LOGICAL_CPUS, "1")
    if not wanted.isdigit() or int(wanted) < 1:
        raise UserError(f'{LOGICAL_CPUS} is "{wanted}"; it must be a whole number, at least 1.')
    if tf.config.list_physical_devices("GPU"):
        return tf.distribute.MirroredStrategy()
    if int(wanted) > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        each = [tf.config.LogicalDeviceConfiguration() for _ in range(int(wanted))]
        tf.config.set_logical_device_configuration(cpu, each)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(int(wanted))])


def _multi_worker() -> tf.distribute.Strategy:
    if not os.environ.get("TF_CONFIG"):
        raise UserError(
            'config.fit.strategy is "multi_worker", but TF_CONFIG is not set, which tells a worker '
            'who the others are; set it on every worker, or use "mirrored" for the devices of one '
            "host."
        )
    handler = signal.getsignal(signal.SIGTERM)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    if handler is not None and threading.current_thread() is threading.main_thread():
        # TensorFlow has put one of its own in its place, which does nothing that ends a run.
        signal.signal(signal.SIGTERM, handler)
    return strategy


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(
            f'config.fit.strategy is "tpu", but no TPU was found ({str(error).splitlines()[0]}); '
            "run on a host that has one, or choose another strategy."
        ) from None
    return tf.distribute.TPUStrategy(resolver)


def _warn_of_versions() -> None:
    first, after = (tuple(map(int, version.split("."))) for version in _TESTED)
    if not first <= tuple(map(int, keras.__version__.split(".")[:2])) < after:
        warnings.warn(
            f"Strategies were tested with Keras {_TESTED[0]}, this is {keras.__version__}, in "
            "which what is mended under them may be otherwise: compare a short run with one "
            "device.",
            stacklevel=3,
        )
