"""What a head trains on, written as it is made; read from memory or from the disk."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_finetune.fit.activations import Kept, Numbers, read, written
from tf_finetune.fit.frozen_pass import held_back, raise_on_all_hosts

_NAME, _DTYPE = "features", "float32"


class KeptFeatures:
    """One vector a row, standing in for the row's tokens.

    Args:
        folder: whole.
        kept: what is there.
        rows: that were written, in this order.
        count: of all rows, of which the others must not be asked for.
        memory: bytes up to which all is held in memory.
    """

    def __init__(self, folder: Path, kept: Kept, rows: np.ndarray, count: int, memory: int) -> None:
        file = folder / f"{kept.name}.bin"
        self.in_memory = file.stat().st_size <= memory
        self._numbers = Numbers(file, kept.dtype, self.in_memory)
        (width,) = kept.shape
        assert width
        self._width = width
        self._places = np.full(count, -1, "int64")
        self._places[rows] = np.arange(len(rows))
        self.lengths = np.ones(count, "int64")

    def spec(self) -> tf.TensorSpec:
        """What `batch` gives."""
        return tf.TensorSpec([None, self._width], _DTYPE)

    def batch(self, rows: np.ndarray) -> np.ndarray:
        """The features float32 (len(rows), width) of some rows."""
        places = self._places[rows]
        if len(places) and places.min() < 0:
            raise KeyError("features of rows that were not kept")
        found = np.empty((len(rows), self._width), _DTYPE)
        for row, place in zip(found, places.tolist(), strict=True):
            row[:] = self._numbers.read(place * self._width, self._width)
        return found


def write_features(
    folder: Path, batches: Iterable[np.ndarray], rows: int, width: int, room: int = 0
) -> None:
    """Writes features of rows, batch by batch.

    Args:
        folder: gets its name when all is there; what has it is removed.
        batches: (n, width); once begun they are taken to the last one, as other hosts may wait
            for this one.
        rows: in all batches.
        width: of a row.
        room: bytes of the disk that are left to others.

    Raises:
        NotKept, OSError: if some host cannot write, before the first batch or after the last;
            and what `batches` raises.
    """
    troubles: list[Exception] = []
    shutil.rmtree(folder, ignore_errors=True)
    with held_back(troubles), contextlib.ExitStack() as stack:
        began: list[Exception] = []
        with held_back(began):
            folder.parent.mkdir(parents=True, exist_ok=True)
            writing = written(folder, lambda name: (width,), _DTYPE, rows * width * 4 + room)
            writer = stack.enter_context(writing)
        raise_on_all_hosts(began)
        for batch in batches:
            with held_back(troubles):
                if not troubles:
                    writer.add({_NAME: batch}, np.ones(len(batch), "int64"), 1)
        if troubles:
            raise troubles[0]
    raise_on_all_hosts(troubles)


def read_features(folder: Path, rows: np.ndarray, count: int, memory: int) -> KeptFeatures | None:
    """What `write_features` wrote; None, and removed, where it is not whole by its checksum.

    Args:
        folder: of them.
        rows: that should be there, in this order.
        count: as in `KeptFeatures`.
        memory: as in `KeptFeatures`.
    """
    kept = read(folder, np.ones(len(rows), "int64"))
    return KeptFeatures(folder, kept[0], rows, count, memory) if kept else None
