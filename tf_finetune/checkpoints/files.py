"""Checkpoints on the disk: each is whole and as it was written, or it is not used."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from tf_finetune.errors import UserError
from tf_finetune.whole import sync, written_whole

FORMAT = 1
ARRAYS, STATE = "arrays.safetensors", "state.json"

Arrays = dict[str, np.ndarray]
# What JSON can hold.
Facts = dict[str, Any]


@dataclasses.dataclass(slots=True, kw_only=True)
class Checkpoint:
    """What was saved at one moment of a run.

    Attributes:
        number: the larger, the later.
    """

    number: int
    arrays: Arrays
    facts: Facts


class CheckpointFiles:
    """The numbered checkpoints of a run.

    Each is a folder `NNNNNN` with `arrays.safetensors`, and `state.json` with the facts, the
    format's version and a SHA-256 of every array and of the facts. It is written under a
    temporary name, brought to the disk, then renamed: a process that is killed leaves the
    ones before. They are ordered by number, whatever the clock says.

    Args:
        folder: is made when the first one is written.
        keep: how many stay.

    Attributes:
        reserve: bytes of the disk that are needed for something else.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self._folder, self._keep, self.reserve = folder, keep, 0
        self._whole: list[int] = []  # known to be, ascending

    def write(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Path:
        """Writes the next one; removes all but the newest that are whole.

        Raises:
            OSError: if the disk is full, or the folder cannot be written; what was there
                before is as it was.
        """
        arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        self._folder.mkdir(parents=True, exist_ok=True)
        self._check_room(sum(array.nbytes for array in arrays.values()))
        number = max(self._numbers(), default=0) + 1
        path = self._path(number)
        with written_whole(path) as temporary:
            temporary.mkdir()
            try:
                safetensors.numpy.save_file(arrays, temporary / ARRAYS)
            except safetensors.SafetensorError as error:
                raise _as_os_error(error, path) from error
            (temporary / STATE).write_text(_described(arrays, facts), encoding="utf-8")
            sync(temporary)
        sync(self._folder, deep=False)
        self._whole.append(number)
        self.prune(self._keep)
        return path

    def newest(self, say: Callable[[str], None] = print) -> Checkpoint | None:
        """The newest that is whole; None if none is.

        What a killed process left half written is removed. One that is damaged stays
        until the next is written.

        Args:
            say: is told which are damaged, and how.

        Raises:
            UserError: if it was written by another version of the format.
        """
        for left in self._folder.glob("writing-*"):
            shutil.rmtree(left, ignore_errors=True)
        for number in sorted(self._numbers(), reverse=True):
            try:
                found = self.read(number)
            except UserError:
                raise
            except ValueError as error:
                say(f"{self._path(number)} is damaged and is not used: {error}")
                continue
            self._whole = [number]
            return found
        if self._numbers():
            say("no checkpoint is whole; the run begins anew")
        return None

    def read(self, number: int) -> Checkpoint:
        """The checkpoint of a number.

        Raises:
            ValueError: if it is not whole, saying how.
            UserError: if it was written by another version of the format.
        """
        try:
            arrays, facts = _read(self._path(number))
        except UserError:
            raise
        except OSError as error:  # of the disk: it says nothing of what stands there
            raise UserError(
                f'The checkpoint "{self._path(number)}" cannot be read ({error}). Nothing was '
                "removed; give the command again when it can be."
            ) from error
        except (ValueError, KeyError, safetensors.SafetensorError) as error:
            raise ValueError(str(error).partition("\n")[0]) from error
        return Checkpoint(number=number, arrays=arrays, facts=facts)

    def prune(self, keep: int) -> None:
        """Removes all but the newest that are whole."""
        self._whole = self._whole[-keep:]
        for number in self._numbers() - set(self._whole):
            shutil.rmtree(self._path(number), ignore_errors=True)

    def _numbers(self) -> set[int]:
        if not self._folder.is_dir():
            return set()
        return {int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()}

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}"

    def _check_room(self, size: int) -> None:
        if shutil.disk_usage(self._folder).free < size + self.reserve:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))


def _described(arrays: Arrays, facts: Mapping[str, Any]) -> str:
    state = {
        "format": FORMAT,
        "facts": facts,
        "arrays": {name: _digest(array) for name, array in arrays.items()},
    }
    return json.dumps(state | {"sha256": _digest_of_json(state)})


def _read(path: Path) -> tuple[Arrays, Facts]:
    for name in (STATE, ARRAYS):
        try:  # safetensors would not say why
            with (path / name).open("rb") as file:
                file.read(1)
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{name} is missing") from None
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    if not isinstance(state, dict) or "format" not in state:
        raise ValueError(f"{STATE} holds no checkpoint")
    if state["format"] != FORMAT:
        raise UserError(
            f'"{path}" has the format {state["format"]}, and this version reads {FORMAT}. Go on '
            "with the version that began the run, or choose another workdir."
        )
    if state.pop("sha256") != _digest_of_json(state):
        raise ValueError(f"{STATE} is not as it was written")
    arrays = safetensors.numpy.load_file(path / ARRAYS)
    if {name: _digest(array) for name, array in arrays.items()} != state["arrays"]:
        raise ValueError(f"{ARRAYS} is not as it was written")
    return arrays, state["facts"]


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.reshape(-1).view("uint8").data)
    return digest.hexdigest()


def _digest_of_json(state: Mapping[str, Any]) -> str:
    # What JSON makes of it, so that it is the same after reading.
    text = json.dumps(json.loads(json.dumps(state)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_os_error(error: Exception, path: Path) -> Exception:
    """The library tells a full disk by its text alone."""
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if f"os error {number}" in str(error):
            return OSError(number, os.strerror(number), str(path))
    return OSError(errno.EIO, str(error), str(path))
