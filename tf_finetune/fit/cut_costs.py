"""What it takes to compute a frozen part, and to read what it gave, measured on one batch."""

from __future__ import annotations

import dataclasses
import os
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
from tf_finetune.fit.replicas import on_all_replicas
from tf_finetune.fit.strategy import told_by_chief
from tf_finetune.model.slicing import Cut, run_prefixes

# Rows of the batch: few enough for a large model, enough for a small one.
_ROWS = 32
# A work that takes as long is not timed a second time.
_LONG = 1.0
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


def costs_in_run(
    cut: Cut, store: Store, rows: np.ndarray, folder: Path, dtype: str, memory: int
) -> Costs | None:
    """Of rows whose activations a run would keep; None where that cannot be told.

    Args:
        cut: of the network, as it will train.
        store: of the rows' inputs.
        rows: of which activations would be kept.
        folder: where.
        dtype: to store floats in, as in `Writer`.
        memory: bytes up to which all that is kept would be read from memory.
    """
    start = max(0, (len(rows) - _ROWS) // 2)
    some = rows[np.argsort(store.lengths[rows], kind="stable")][start : start + _ROWS]
    x, lengths = store.batch(some), store.lengths[some]
    computing, arrays = _computed(cut, x)
    in_memory = cut.row_bytes(float(store.lengths[rows].mean())) * len(rows) <= memory
    reading = 0.0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="measured-", dir=folder) as name:
            there = Path(name) / "batch"
            with written(there, cut.shape, dtype, 0) as writer:
                writer.add(arrays, lengths, tokens_in(x))
            kept = read(there, lengths) or []
            batch = ActivationStore(there, kept, some, store, {}, memory if in_memory else 0)
            if not in_memory:
                _let_go(there)
            # What the disk is asked for again comes from memory.
            reading = _seconds(lambda: batch.batch(some), times=2 if in_memory else 1)
    except (NotKept, OSError):
        pass  # which is told where it is to be kept, if it comes to that
    return _agreed(computing, reading, len(some))


def costs_in_memory(cut: Cut, x: Any) -> Costs | None:
    """As `costs_in_run`, of arrays that are held in memory.

    Args:
        cut: of the model, as it will train.
        x: its inputs for all rows.
    """
    rows = min(_ROWS, len(keras.tree.flatten(x)[0]))
    computing, arrays = _computed(cut, keras.tree.map_structure(lambda a: a[:rows], x))
    order = np.arange(rows)[::-1]
    reading = _seconds(lambda: [array[order] for array in arrays.values()])
    return _agreed(computing, reading, rows)


def _computed(cut: Cut, x: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Seconds that the prefix takes on all replicas, and what is kept."""
    x = keras.tree.map_structure(tf.constant, x)
    run = tf.function(on_all_replicas(lambda x: run_prefixes([cut], x)[0]), autograph=False)
    run(x)  # traces
    found: dict[str, np.ndarray] = {}

    def compute() -> None:
        found.update({name: array.numpy() for name, array in run(x).items()})

    return _seconds(compute), found


def _seconds(work: Callable[[], Any], times: int = 2) -> float:
    """The shortest of several times."""
    found = list[float]()
    while len(found) < times and (not found or found[0] < _LONG):
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
