"""Workers as processes of their own, on ports of their own, never left behind."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # a test that waits longer has failed


class Worker:
    """A process, its lines as they come."""

    def __init__(self, command, environ, prefix=()):
        self.process = subprocess.Popen(
            [*prefix, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        )
        self.lines, self.errors = queue.SimpleQueue(), []
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines.put)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.errors.append)),
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream, take):
        with stream:
            for line in stream:
                take(line.rstrip("\n"))
        take(None)

    def says(self, seconds=SECONDS):
        """The next line on stdout."""
        with contextlib.suppress(queue.Empty):
            if (line := self.lines.get(timeout=seconds)) is not None:
                return line
        raise AssertionError(f"no line came; on stderr: {self.errors}")

    def do(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def ends(self, seconds=SECONDS):
        """Exit status and stderr, once the process has ended by itself."""
        status = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(SECONDS)
        return status, "\n".join(self.errors[:-1])

    def remove(self):
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # of what it did not read any more
            self.process.stdin.close()
        for reader in self._readers:
            reader.join()


def free_addresses(count):
    """So many addresses at which nobody listens."""
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = tuple(f"127.0.0.1:{door.getsockname()[1]}" for door in doors)
    for door in doors:
        door.close()
    return addresses
