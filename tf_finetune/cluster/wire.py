"""JSON objects over a TCP connection, one a line; an empty line is a sign of life."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
Inbox = queue.SimpleQueue[tuple["Line", Message]]
# A configuration has some kilobytes; what sends more without an end of line is none of us.
_LONGEST = 2**24


class Line:
    """One connection, read in a thread of its own.

    Attributes:
        heard: when anything came last, by the monotonic clock.
        ended: nothing will come any more.
        bye: the other's last words, empty before them.
        on_stop: takes what is said about stopping, in the reading thread.
    """

    def __init__(self, connection: socket.socket, inbox: Inbox) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard = time.monotonic()
        self.ended = False
        self.bye: Message = {}
        self.on_stop: Callable[[Message], None] | None = None
        self._socket, self._inbox = connection, inbox
        self._sending = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: Message) -> None:
        """Sends an object; that the other is gone shows in `ended`."""
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def beat(self) -> None:
        """Gives a sign of life; never waits for an other that does not read."""
        if self._sending.acquire(blocking=False):
            with contextlib.suppress(OSError):
                self._socket.send(b"\n", socket.MSG_DONTWAIT)
            self._sending.release()

    def part(self, bye: Message) -> None:
        """Sends last words; what the other still sends is read and dropped."""
        self.send({"bye": bye})
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Ends the connection, from whatever thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self) -> None:
        # Garbage ends a connection like a broken wire does.
        garbage = contextlib.suppress(OSError, ValueError, RecursionError)
        with garbage, self._socket.makefile("rb") as file:
            while text := file.readline(_LONGEST):
                self.heard = time.monotonic()
                if text != b"\n":
                    self._take(json.loads(text))
        self.ended = True

    def _take(self, message: Any) -> None:
        if not isinstance(message, dict):
            raise ValueError("no JSON object")
        if isinstance(message.get("bye"), dict):
            self.bye = message["bye"]
        elif "stop" in message and self.on_stop:
            self.on_stop(message)
        else:
            self._inbox.put((self, message))


def listen(port: int) -> socket.socket:
    """A socket that listens at a port of all this host's addresses.

    Raises:
        OSError: if the port is in use.
    """
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def stop_listening(door: socket.socket) -> None:
    """Makes room for TensorFlow's server, which listens at the same port next.

    The port stays bound, so that nobody else gets it in between: a server that sets
    SO_REUSEADDR, as TensorFlow's does, may listen at a port that is bound but not
    listened at, and beside connections that were made there before.
    """
    try:
        door.shutdown(socket.SHUT_RD)
    except OSError:  # not on Linux: then it is given up
        door.close()
