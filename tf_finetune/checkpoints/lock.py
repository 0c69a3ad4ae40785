"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tf_finetune.errors import UserError

NAME = ".lock"
# Of file systems that have no locks, as some of buckets: there a run goes on without.
_UNLOCKED = (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder for this run; that of a process that was killed is free by itself.

    Args:
        folder: exists.

    Raises:
        UserError: if another run holds it, naming its process and machine.
    """
    file = folder / NAME
    handle = _taken(file)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        # While it is held: who opens the file after this makes a new one.
        file.unlink(missing_ok=True)
        os.close(handle)


def _taken(file: Path) -> int:
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.exists() and os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        except BlockingIOError:
            holder = os.pread(handle, 1000, 0).decode(errors="replace") or "another process"
            os.close(handle)
            raise UserError(
                f'"{file.parent}" is in use: {holder} works in it. Wait until that has ended, or '
                "choose another folder."
            ) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno in _UNLOCKED:
                return handle
            os.close(handle)
            raise
        os.close(handle)  # its holder has ended, and removed it in between
