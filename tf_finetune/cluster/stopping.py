"""Stopping at the same batch on all workers, wherever the wish to stop came from.

One worker that just stopped would leave the others in the middle of the next batch, which
none of them could finish. So the chief asks all how far they are sure to go, holds them
there, and names the furthest: the batch after which all stop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from tf_finetune.cluster.lost import PeerLost
from tf_finetune.cluster.spec import Cluster
from tf_finetune.cluster.wire import Line, Message


class StoppingTogether:
    """Finds the batch after which all workers stop.

    Args:
        cluster: who takes part.
        lines: to the others: of the chief to all, of the others to the chief.
    """

    def __init__(self, cluster: Cluster, lines: Mapping[int, Line]) -> None:
        self._cluster, self._lines = cluster, lines
        self._changed = threading.Condition()
        self._done, self._asked, self._held = 0, False, False
        self._last: int | None = None
        # On the chief: the batch that each worker is at, which it will finish.
        self._sure: dict[int, int] = {}
        for line in lines.values():
            line.on_stop = self._hear

    @property
    def agreed(self) -> bool:
        """Whether all know where they stop."""
        return self._last is not None

    def after_batch(self, asked: bool, lost: Callable[[], PeerLost | None]) -> bool:
        """As `Meeting.stops`."""
        if not self._lines:
            return asked
        with self._changed:
            first, self._asked = asked and not self._asked, asked or self._asked
            self._done += 1
        if first:
            self._tell({"stop": "ask"})
        with self._changed:
            while self._held and not self.agreed:
                self._changed.wait(0.2)
                if error := lost():
                    raise error
            return self._last is not None and self._done >= self._last

    def _tell(self, message: Message) -> None:
        """Tells the chief, which may be this worker."""
        if self._cluster.chief:
            self._hear({**message, "index": 0})
        else:
            self._lines[0].send({**message, "index": self._cluster.index})

    def _hear(self, message: Message) -> None:
        """From whatever thread reads the line."""
        what = message["stop"]
        if what == "ask":
            self._order({"stop": "hold"})
        elif what == "hold":
            with self._changed:
                again, self._held = self._held, True
                sure = self._done + 1
            if not again:
                self._tell({"stop": "sure", "sure": sure})
        elif what == "sure":
            with self._changed:
                self._sure[message["index"]] = message["sure"]
                complete = len(self._sure) == len(self._cluster.addresses)
            if complete:
                self._order({"stop": "last", "last": max(self._sure.values())})
        elif what == "last":
            with self._changed:
                self._last = message["last"]
                self._changed.notify_all()

    def _order(self, message: Message) -> None:
        """On the chief: tells all, itself last."""
        for line in self._lines.values():
            line.send(message)
        self._hear(message)
