"""Files and folders that get their name only once all of them is on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: Path, needed: int = 0) -> Iterator[Path]:
    """Yields a temporary name beside `path`, which becomes `path` at the block's end.

    After an error nothing stays under the temporary name, and what stood under
    `path` before still does.

    Args:
        path: a file, or a folder that does not exist yet.
        needed: about how many bytes will be written, if a full disk must be found
            before: HDF5 crashes when the process ends with a file that did not fit.

    Raises:
        OSError: with `errno.ENOSPC`, if fewer bytes than that are free.
    """
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    temporary = path.with_name(f"writing-{path.name}")
    remove(temporary)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        remove(temporary)


def sync(path: Path, *, deep: bool = True) -> None:
    """Makes sure that a folder's files are on the disk, not only on their way there.

    Args:
        path: a folder.
        deep: its files and folders too, not their names alone.
    """
    below = [file for file in path.rglob("*") if not file.is_symlink()] if deep else []
    for file in [*below, path]:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """Removes a file or a folder; there may be none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
