"""Activations of numbered rows: written once, whole; read from memory or from the disk."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tensorflow as tf

from tf_finetune.data.pipeline import Store
from tf_finetune.whole import written_whole

_FACTS, _FORMAT = "facts.json", 1
Shape = tuple[int | None, ...]


class NotKept(Exception):
    """Why activations cannot be kept; to be put behind "because"."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Kept:
    """An array that is kept of each row.

    Attributes:
        name: by which the model takes it.
        shape: of a row; None stands for the row's tokens, of which the real ones are kept.
        dtype: in which it is stored.
        computed: the dtype that it was computed in.
        digest: SHA-256 of the file.
    """

    name: str
    shape: Shape
    dtype: str
    computed: str
    digest: str = ""

    def numbers(self, lengths: np.ndarray) -> np.ndarray:
        """How many numbers are kept of rows of some lengths."""
        fixed = math.prod(n for n in self.shape if n is not None)
        return fixed * lengths.astype("int64") ** self.shape.count(None)


class Writer:
    """Writes the activations of rows, in the order in which they come.

    Args:
        folder: to write in.
        shapes: by name, as in `Kept`.
        dtype: to store floats in; empty for the one that they come in.
    """

    def __init__(self, folder: Path, shapes: Callable[[str], Shape], dtype: str = "") -> None:
        self._folder, self._shapes, self._dtype = folder, shapes, dtype
        self._kept: dict[str, Kept] = {}
        self._files: dict[str, tuple[BinaryIO, Any]] = {}

    def add(self, arrays: Mapping[str, np.ndarray], lengths: np.ndarray, padded: int) -> None:
        """Appends rows.

        Args:
            arrays: (rows, ...), by name.
            lengths: (rows,), real tokens.
            padded: tokens with padding.

        Raises:
            NotKept: if an array is not one of rows and tokens, or does not fit its type.
        """
        for name, array in arrays.items():
            kept = self._kept.get(name) or self._begin(name, array)
            shape = (len(lengths), *(padded if n is None else n for n in kept.shape))
            if array.shape != shape:
                raise NotKept(
                    f"its frozen part gives an array of shape {array.shape} where {shape} would "
                    "be rows, tokens and features"
                )
            with np.errstate(over="ignore"):
                stored = array.astype(tf.as_dtype(kept.dtype).as_numpy_dtype)
            if kept.dtype != kept.computed and np.isinf(stored.astype("float32")).any():
                raise NotKept(f"{kept.dtype} does not hold numbers as large as its activations")
            file, total = self._files[name]
            for data in self._rows(kept, stored, lengths):
                file.write(data)
                total.update(data)

    def _begin(self, name: str, array: np.ndarray) -> Kept:
        computed = tf.as_dtype(array.dtype)
        stored = self._dtype if self._dtype and computed.is_floating else computed.name
        self._files[name] = (self._folder / f"{name}.bin").open("wb"), hashlib.sha256()
        shape = self._shapes(name)
        self._kept[name] = Kept(name=name, shape=shape, dtype=stored, computed=computed.name)
        return self._kept[name]

    @staticmethod
    def _rows(kept: Kept, array: np.ndarray, lengths: np.ndarray) -> Iterator[bytes]:
        if None not in kept.shape:
            yield array.tobytes()
            return
        for row, length in zip(array, lengths, strict=True):
            yield row[tuple(slice(length if n is None else n) for n in kept.shape)].tobytes()

    def finish(self) -> None:
        """Writes what `read` needs beside the arrays."""
        for name, (file, total) in self._files.items():
            file.close()
            self._kept[name].digest = total.hexdigest()
        facts = {"format": _FORMAT, "kept": [dataclasses.asdict(k) for k in self._kept.values()]}
        (self._folder / _FACTS).write_text(json.dumps(facts))

    def close(self) -> None:
        for file, _ in self._files.values():
            file.close()


@contextlib.contextmanager
def written(
    folder: Path, shapes: Callable[[str], Shape], dtype: str, needed: int
) -> Iterator[Writer]:
    """Yields a writer of what becomes `folder` at the block's end, and not before.

    Args:
        folder: which does not exist.
        shapes: as in `Writer`.
        dtype: as in `Writer`.
        needed: about how many bytes will be written.

    Raises:
        OSError: if the disk has no room for them.
    """
    with written_whole(folder, needed=needed) as temporary:
        temporary.mkdir()
        writer = Writer(temporary, shapes, dtype)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


def read(folder: Path, sizes: np.ndarray) -> list[Kept] | None:
    """What is kept in a folder; None where there is nothing whole, which is then removed.

    Args:
        folder: that `written` has made.
        sizes: (rows,), real tokens of all rows that should be there.
    """
    try:
        facts = json.loads((folder / _FACTS).read_text())
        kept = [Kept(**held | {"shape": tuple(held["shape"])}) for held in facts["kept"]]
        for one in kept:
            with (folder / f"{one.name}.bin").open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != one.digest:
                    raise ValueError(f"{file.name} is damaged")
                width = np.dtype(tf.as_dtype(one.dtype).as_numpy_dtype).itemsize
                if file.tell() != width * one.numbers(sizes).sum():
                    raise ValueError(f"{file.name} holds other rows")
        if facts["format"] == _FORMAT:
            return kept
    except (OSError, ValueError, KeyError, TypeError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return None


class ActivationStore:
    """Activations by row, padded as the inputs of these rows are.

    Padding repeats a row's last token: what is computed of it is finite, and does not count.

    Args:
        folder: whole.
        kept: what is there.
        rows: that were written, in this order.
        inputs: of the rows, from which come lengths and padding.
        passed: the names by which the model takes inputs that it still reads, with how to
            find these in a batch.
        memory: bytes up to which all is held in memory.

    Attributes:
        lengths: of all rows.
        bytes: on the disk.
        in_memory: whether all is held there.
        reads_inputs: whether batches take the rows' inputs too.
    """

    def __init__(
        self,
        folder: Path,
        kept: Sequence[Kept],
        rows: np.ndarray,
        inputs: Store,
        passed: Mapping[str, Any],
        memory: int,
    ) -> None:
        self.lengths, self._inputs, self._passed = inputs.lengths, inputs, dict(passed)
        self._kept, self._files, self._starts = list(kept), dict[str, Numbers](), {}
        # Of pictures nothing is: decoding them again would be for nothing.
        self.reads_inputs = bool(passed) or any(None in one.shape for one in kept)
        self.bytes = sum((folder / f"{one.name}.bin").stat().st_size for one in kept)
        self.in_memory = self.bytes <= memory
        for one in kept:
            file = folder / f"{one.name}.bin"
            self._files[one.name] = Numbers(file, one.dtype, self.in_memory)
            counts = one.numbers(self.lengths[rows])
            self._starts[one.name] = np.full(len(self.lengths), -1, "int64")
            self._starts[one.name][rows] = np.cumsum(counts) - counts

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Activations, and the inputs that are passed on, of some rows."""
        found, padded = dict[str, np.ndarray](), 1
        if self.reads_inputs:
            inputs = self._inputs.batch(rows)
            found = {name: pick(inputs) for name, pick in self._passed.items()}
            padded = tokens_in(inputs)
        for one in self._kept:
            starts, lengths = self._starts[one.name][rows], self.lengths[rows]
            if starts.min() < 0:
                raise KeyError("activations of rows that were not kept")
            shape = [len(rows), *(padded if n is None else n for n in one.shape)]
            out = np.zeros(shape, tf.as_dtype(one.dtype).as_numpy_dtype)
            for i, count in enumerate(one.numbers(lengths)):
                numbers = self._files[one.name].read(starts[i], count)
                _place(out[i], numbers, one.shape, int(lengths[i]))
            found[one.name] = out
        return found

    def spec(self) -> dict[str, tf.TensorSpec]:
        """What `batch` gives, of any rows."""
        inputs = self._inputs.batch(np.array([0]))
        given = {name: pick(inputs) for name, pick in self._passed.items()}
        tokens = any(None in one.shape for one in self._kept)
        found = {
            name: tf.TensorSpec([None, *(None if tokens else n for n in x.shape[1:])], x.dtype)
            for name, x in given.items()
        }
        return found | {
            one.name: tf.TensorSpec([None, *one.shape], tf.as_dtype(one.dtype))
            for one in self._kept
        }


class Numbers:
    """The numbers in a file, held in memory or read where they are asked for."""

    def __init__(self, file: Path, dtype: str, in_memory: bool) -> None:
        self._dtype = np.dtype(tf.as_dtype(dtype).as_numpy_dtype)
        self._held = np.fromfile(file, "uint8").view(self._dtype) if in_memory else None
        # Not mapped: pages of a map count as this process's memory, however many there are.
        self._file = None if in_memory else file.open("rb", buffering=0)

    def read(self, start: int, count: int) -> np.ndarray:
        if self._held is not None:
            return self._held[start : start + count]
        assert self._file
        width = self._dtype.itemsize
        data = os.pread(self._file.fileno(), int(count) * width, int(start) * width)
        return np.frombuffer(data, self._dtype)


def _place(out: np.ndarray, numbers: np.ndarray, shape: Shape, length: int) -> None:
    place = tuple(slice(length if n is None else n) for n in shape)
    out[place] = numbers.reshape(out[place].shape)
    if shape.count(None) == 1 and out.dtype.kind not in "biu":
        axis = shape.index(None)
        before = (slice(None),) * axis
        out[(*before, slice(length, None))] = out[(*before, slice(length - 1, length))]


def tokens_in(inputs: Any) -> int:
    """Tokens of a batch's rows, with padding; 1 where rows have none."""
    first = tf.nest.flatten(inputs)[0]
    return int(first.shape[1]) if first.ndim > 1 else 1
