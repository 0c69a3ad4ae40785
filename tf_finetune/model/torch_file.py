"""Tensors from a PyTorch file, without PyTorch and without running what is in it.

Such a file is a pickle, which may call any function that it names. Here it may name two that
rebuild tensors, a few words for types of numbers, and `OrderedDict`; anything else is refused
before it is called.
"""

from __future__ import annotations

import collections
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Tensors may share numbers, but not many of them.
_MOST_GROWTH = 4
_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "BoolStorage": "?",
}


class TorchFileError(ValueError):
    """The file is damaged, of another kind, or wants to run something."""


# Tuples: what a pickle has made of them it cannot change afterwards.
class _Storage(NamedTuple):
    """Numbers that follow behind the pickle."""

    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """Where in a storage the numbers of a tensor lie."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Allowed(NamedTuple):
    """A function that a pickle may call."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by `torch.save(model.state_dict(), file)`, in the old format.

    Args:
        file: as PyTorch wrote it before version 1.6, or since then with
            `_use_new_zipfile_serialization=False`.

    Raises:
        TorchFileError: if it is none, is cut off, or names what it must not.
    """
    if zipfile.is_zipfile(file):
        raise TorchFileError(
            "it is of PyTorch's zip format; save it by torch.save(state_dict, file, "
            "_use_new_zipfile_serialization=False)"
        )
    try:
        with file.open("rb") as stream:
            return _read(stream, file.stat().st_size)
    except TorchFileError:
        raise
    except (EOFError, struct.error) as error:
        raise TorchFileError("it is cut off") from error
    # A damaged pickle fails in any way that Python knows.
    except Exception as error:
        raise TorchFileError(f"it is damaged ({type(error).__name__}: {error})") from error


def _read(stream: BinaryIO, size: int) -> dict[str, np.ndarray]:
    if _Pickle(_Whole(stream)).load() != _MAGIC or _Pickle(_Whole(stream)).load() != _PROTOCOL:
        raise TorchFileError("it is no file by torch.save")
    if not _Pickle(_Whole(stream)).load().get("little_endian"):
        raise TorchFileError("its numbers are big-endian")
    tensors, keys = _Pickle(_Whole(stream)).load(), _Pickle(_Whole(stream)).load()
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(held, _Tensor) for name, held in tensors.items()
    ):
        raise TorchFileError("it holds something other than named tensors (a state_dict)")
    storages: dict[str, _Storage] = {}
    for tensor in tensors.values():
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise TorchFileError("it gives the same numbers two sizes")
    arrays: dict[str, np.ndarray] = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        if key not in storages or count != storages[key].size:
            raise TorchFileError("its table of numbers does not fit its tensors")
        dtype = np.dtype(storages[key].dtype)
        # Before memory is asked for.
        if not 0 <= count * dtype.itemsize <= size - stream.tell():
            raise TorchFileError("it is cut off")
        arrays[key] = np.frombuffer(stream.read(count * dtype.itemsize), dtype)
    whole = sum(
        math.prod(tensor.shape) * np.dtype(tensor.storage.dtype).itemsize
        for tensor in tensors.values()
    )
    if whole > _MOST_GROWTH * size:
        raise TorchFileError("its tensors are far larger than it is")
    return {name: _array(tensor, arrays) for name, tensor in tensors.items()}


def _array(tensor: _Tensor, arrays: dict[str, np.ndarray]) -> np.ndarray:
    numbers = arrays[tensor.storage.key]
    steps = [step * numbers.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, steps)
    return np.ascontiguousarray(view).reshape(tensor.shape)


class _Whole:
    """A file in which nothing is shorter than it was asked for, but at its end an error."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, count: int) -> bytes:
        """So many bytes."""
        found = self._stream.read(count)
        if len(found) < count:
            raise EOFError
        return found

    def readline(self) -> bytes:
        """A line with its end."""
        found = self._stream.readline()
        if not found.endswith(b"\n"):
            raise EOFError
        return found


class _Pickle(pickle._Unpickler):
    """In Python: the one in C makes room for whatever number a pickle gives its objects."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may name."""
        found = _ALLOWED.get((module, name))
        if found is None and module == "torch" and name in _STORAGES:
            return name
        if found is None:
            raise TorchFileError(
                f"it wants to use {module}.{name}, which could run code; that is not done"
            )
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that stands behind the pickle under a key."""
        kind, storage, key, _, size, view = pid
        if kind != "storage" or view is not None:
            raise TorchFileError("it holds views of storages")
        return _Storage(str(key), _STORAGES[storage], int(size))


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise TorchFileError("it holds a tensor without a storage")
    offset, shape, strides = int(offset), tuple(map(int, shape)), tuple(map(int, strides))
    if len(shape) != len(strides) or min((0, offset, *shape, *strides)) < 0:
        raise TorchFileError("it holds a tensor of an impossible shape")
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    # Steps of 0 would make much out of little.
    if last >= storage.size or math.prod(shape) > storage.size:
        raise TorchFileError("it holds a tensor that is larger than its numbers")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


_ALLOWED = {
    ("collections", "OrderedDict"): _Allowed(collections.OrderedDict),
    ("torch._utils", "_rebuild_tensor_v2"): _Allowed(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Allowed(_rebuild_parameter),
}
