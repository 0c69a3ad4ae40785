"""What it takes to compute a frozen part, and to read what it gave, measured on one batch."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.data.pipeline import Store
from tf_finetune.fit.activations import ActivationStore, NotKept, read, tokens_in, written
from tf_finetune.fit.keeping import MEASURED
from tf_finetune.fit.replicas import on_all_replicas, replicated
from tf_finetune.fit.strategy import so_on_all_hosts, told_by_chief
from tf_finetune.model.slicing import Cut, run_prefixes
from tf_finetune.whole import written_whole

# Rows of the batch, where so many go through at once.
_ROWS = 32
_UNITS = 1e9  # hosts agree in whole numbers


@dataclasses.dataclass(frozen=True, slots=True)
class Costs:
    """Seconds a row, the same on all hosts.

    Attributes:
        computing: its frozen part.
        reading: what is kept of it.
    """

    computing: float
    reading: float


def remembered(file: Path, key: str, measure: Callable[[], Costs | None]) -> Costs | None:
    """What was measured before, so that trials of one tuning decide alike; else it is measured.

    Args:
        file: JSON, in which it is noted.
        key: of what is measured.
        measure: called on all hosts, or on none.
    """
    known: dict[str, list[float]] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = dict(json.loads(file.read_text()))
    # What another machine measured says nothing of this one.
    key = f"{platform.node()} {_device()} {key}"
    if so_on_all_hosts(key in known):
        return Costs(*known[key])
    if costs := measure():
        known[key] = list(dataclasses.astuple(costs))
        with contextlib.suppress(OSError), written_whole(file) as temporary:
            temporary.write_text(json.dumps(known))
    return costs


def _device() -> str:
    devices = tf.config.list_physical_devices("GPU")
    return (
        tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU")
        if devices
        else "CPU"
    )


def costs_in_run(
    cut: Cut,
    store: Store,
    rows: np.ndarray,
    folder: Path,
    dtype: str,
    memory: int,
    batch: int,
) -> Costs | None:
    """Of rows whose activations a run would keep; None where that cannot be told.

    Args:
        cut: of the network, as it will train.
        store: of the rows' inputs.
        rows: of which activations would be kept.
        folder: where.
        dtype: to store floats in, as in `Writer`.
        memory: bytes up to which all that is kept would be read from memory.
        batch: rows that surely go through at once.
    """
    count = min(_ROWS, batch, len(rows))
    start = (len(rows) - count) // 2
    some = rows[np.argsort(store.lengths[rows], kind="stable")][start : start + count]
    x, lengths = store.batch(some), store.lengths[some]
    computing, arrays = _computed(cut, x)
    reading = 0.0
    try:
        if not arrays:
            raise NotKept("there is no memory for a batch")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=MEASURED, dir=folder) as name:
            there = Path(name) / "batch"
            with written(there, cut.shape, dtype, 0) as writer:
                writer.add(arrays, lengths, tokens_in(x))
            kept = read(there, lengths) or []
            size = sum(file.stat().st_size for file in there.glob("*.bin"))
            in_memory = size * len(rows) <= memory * count
            held = ActivationStore(there, kept, some, store, {}, memory if in_memory else 0)
            if not in_memory:
                _let_go(there)
            # What the disk is asked for again comes from memory.
            reading = _seconds(lambda: held.batch(some), times=2 if in_memory else 1)
            if held.reads_inputs:  # as training on the whole does
                reading -= _seconds(lambda: store.batch(some))
            reading = max(reading, count / _UNITS)
    except (NotKept, OSError):
        pass  # which is told where it is to be kept, if it comes to that
    return _agreed(computing, reading, len(some))


def costs_in_memory(cut: Cut, x: Any, batch: int) -> Costs | None:
    """As `costs_in_run`, of arrays that are held in memory.

    Args:
        cut: of the model, as it will train.
        x: its inputs for all rows.
        batch: rows that surely go through at once.
    """
    rows = min(_ROWS, batch, len(keras.tree.flatten(x)[0]))
    computing, arrays = _computed(cut, keras.tree.map_structure(lambda a: a[:rows], x))
    order = np.arange(rows)[::-1]
    reading = _seconds(lambda: [array[order] for array in arrays.values()])
    return _agreed(computing, reading, rows)


def _computed(cut: Cut, x: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Seconds that the prefix takes on all replicas, and what is kept; nothing where no memory is.

    It is run twice whatever that takes: hosts wait for each other in it.
    """
    x = keras.tree.map_structure(tf.constant, x)
    run = tf.function(on_all_replicas(lambda x: run_prefixes([cut], x)[0]), autograph=False)
    try:
        run(x)  # traces
        began = time.perf_counter()
        found = {name: array.numpy() for name, array in run(x).items()}
        return time.perf_counter() - began, found
    except tf.errors.ResourceExhaustedError:
        if replicated():  # the other hosts wait within it
            raise
        return 0.0, {}


def _seconds(work: Callable[[], Any], times: int = 2) -> float:
    """The shortest of several times."""
    found = list[float]()
    for _ in range(times):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def _agreed(computing: float, reading: float, rows: int) -> Costs | None:
    """What the chief has measured; None where it could not."""
    each = [told_by_chief(round(_UNITS * x / rows)) / _UNITS for x in (computing, reading)]
    return Costs(*each) if all(each) else None


def _let_go(folder: Path) -> None:
    """Has files read from the disk next time, where the system can be asked for that."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
