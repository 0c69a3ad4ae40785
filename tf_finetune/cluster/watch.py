"""Leaves when another worker is gone, however deep in TensorFlow the main thread waits.

A worker that is killed or stopped leaves the others in a collective operation.
TensorFlow's own heartbeat ends most of them with an error after ten seconds, some hang.
So all workers give signs of life to the chief and the chief to all, over the connections
by which they met. Whoever misses one tells the main thread; where that does not leave by
itself, the process ends: files are written whole, so that the next start finds them well.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Mapping

from tf_finetune.cluster.lost import LOST_STATUS, PeerLost
from tf_finetune.cluster.spec import Cluster
from tf_finetune.cluster.stopping import StoppingTogether
from tf_finetune.cluster.wire import Line

BEAT = 1.0
# Seconds; TensorFlow gives up after 10. Together they stay below 30.
SILENCE = 15.0
GRACE = 6.0
LAUNCHER = "TF_FINETUNE_LAUNCHER"  # the number of the process that has started this one
_AGAIN = "All workers leave; start all again, and the run goes on from its last checkpoint."


class Watch:
    """Watches over the lines to other workers from a thread of its own.

    Attributes:
        lost: the error for the main thread, once a worker is gone.
    """

    def __init__(
        self, cluster: Cluster, lines: Mapping[int, Line], stopping: StoppingTogether
    ) -> None:
        self.lost: PeerLost | None = None
        self._cluster, self._lines, self._stopping = cluster, lines, stopping
        self._found, self._over = threading.Event(), threading.Event()
        # Not where a shell stands in between.
        self._launched = os.environ.get(LAUNCHER) == str(os.getppid())
        self._parent = os.getppid()
        threading.Thread(target=self._run, daemon=True).start()

    def end(self) -> None:
        """Watches no longer: the main thread leaves by itself."""
        self._over.set()

    def verdict(self, seconds: float) -> PeerLost | None:
        """Who is gone, as soon as that is known, or None after so many seconds."""
        self._found.wait(seconds)
        return self.lost

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._over.wait(BEAT):
            now = time.monotonic()
            if now - looked > 5 * BEAT:
                # It was this process that slept: what came meanwhile is read first.
                for line in self._lines.values():
                    line.heard = now
            looked = now
            for line in self._lines.values():
                line.beat()
            if reason := self._gone(now):
                self._leave(reason)
                return

    def _gone(self, now: float) -> str:
        """The message on the launcher, or the first worker, that is gone; or an empty string."""
        if self._launched and os.getppid() != self._parent:
            return f"the process that started this worker is gone. {_AGAIN}"
        for index, line in self._lines.items():
            name, kind = self._cluster.name(index), line.bye.get("kind")
            why = str(line.bye.get("why"))
            if kind == "lost":  # found by the other, perhaps of this very worker
                return why
            if kind == "stopped" and not self._stopping.agreed:
                return f"{name} was stopped. {_AGAIN}"
            if kind == "failed":
                return f"{name} has failed: {why} All workers leave; mend that, and start again."
            if kind is None and line.ended:
                return f"{name} is lost: its connection has ended. {_AGAIN}"
            if kind is None and now - line.heard > SILENCE:
                return f"{name} is lost: nothing was heard of it for {SILENCE:g} s. {_AGAIN}"
        return ""

    def _leave(self, reason: str) -> None:
        self.lost = PeerLost(reason)
        self._found.set()
        if self._cluster.chief:
            for line in self._lines.values():
                line.part({"kind": "lost", "why": reason})
        if not self._over.wait(GRACE):
            _end_process(reason)


def _end_process(reason: str) -> None:
    """Ends the process from a thread: the main one does not come back."""
    # It may hold the lock of the buffer, so that this thread must not wait for it.
    flushing = threading.Thread(target=sys.stdout.flush, daemon=True)
    flushing.start()
    flushing.join(1)
    with contextlib.suppress(OSError):
        os.write(2, f"tf-finetune: {reason}\n".encode())
    os._exit(LOST_STATUS)
