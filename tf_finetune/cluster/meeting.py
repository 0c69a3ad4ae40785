"""What the workers of a run say to each other while it lasts."""

from __future__ import annotations

import json
import queue
import socket
from collections.abc import Callable, Mapping
from typing import Any

from tf_finetune.cluster.lost import PeerLost
from tf_finetune.cluster.spec import Cluster
from tf_finetune.cluster.stopping import StoppingTogether
from tf_finetune.cluster.watch import Watch
from tf_finetune.cluster.wire import Inbox, Line
from tf_finetune.errors import UserError

# From what all workers said, by index: what is wrong, or an empty string.
Judge = Callable[[dict[int, Any]], str]


class Meeting:
    """The workers that have met, watched over from now on.

    `gather` makes it. Every method that waits raises `PeerLost` when a worker is gone.

    Attributes:
        cluster: who they are.
        shared: what the chief handed out when they met.
    """

    def __init__(
        self, cluster: Cluster, lines: Mapping[int, Line], inbox: Inbox, door: socket.socket | None
    ) -> None:
        self.cluster = cluster
        self.shared: Any = None
        # Held as long as the run lasts: with it the port stays this run's.
        self._door = door
        self._lines, self._inbox = lines, inbox
        self._stopping = StoppingTogether(cluster, lines)
        self._watch = Watch(cluster, lines, self._stopping)

    def agree(self, facts: Mapping[str, Any], shared: Any = None) -> Any:
        """Waits for all workers and checks that they agree.

        Args:
            facts: what must be the same on all workers, as JSON knows it.
            shared: on the chief, what to hand out.

        Returns:
            What the chief handed out, on every worker.

        Raises:
            UserError: on all workers, naming each worker and each fact that differs.
        """
        return self.judged(facts, self._differences, shared)

    def judged(self, said: Any, judge: Judge, shared: Any = None) -> Any:
        """Waits until all have said something, has the chief judge, and ends well or not.

        Args:
            said: by this worker.
            judge: called on the chief; a message of its is raised on all workers.
            shared: as in `agree`.

        Returns:
            As `agree`.

        Raises:
            UserError: with the judge's message.
        """
        if self.cluster.chief:
            # What stands in both must have gone through JSON: a tuple is a list there.
            heard = {0: json.loads(json.dumps(said))}
            while len(heard) < len(self.cluster.addresses):
                index, message = self._next()
                heard[index] = message["said"]
            verdict = {"wrong": judge(heard), "shared": json.loads(json.dumps(shared))}
            for line in self._lines.values():
                line.send(verdict)
        else:
            self._lines[0].send({"said": said})
            verdict = self._next()[1]
        if verdict["wrong"]:
            raise UserError(verdict["wrong"])
        return verdict["shared"]

    def stops(self, asked: bool) -> bool:
        """Whether all workers stop here; to be called at the end of every batch, on all.

        Args:
            asked: whether this worker has been asked to stop, as by SIGTERM.

        Returns:
            True after the same batch on all workers, soon after one was asked.
        """
        return self._stopping.after_batch(asked, self.lost)

    def lost(self, seconds: float = 0) -> PeerLost | None:
        """Who is gone, as soon as that is known, or None after so many seconds."""
        return self._watch.verdict(seconds)

    def leave(self, kind: str, why: str = "") -> None:
        """Says goodbye: nobody will take this worker for lost.

        Args:
            kind: `finished`, or what ends the others too: `stopped`, `failed` or `lost`.
            why: what has failed, or the message on who is lost.
        """
        self._watch.end()
        for line in self._lines.values():
            line.part({"kind": kind, "why": why})

    def _next(self) -> tuple[int, dict[str, Any]]:
        """The next message and who sent it."""
        senders = {id(line): index for index, line in self._lines.items()}
        while True:
            try:
                line, message = self._inbox.get(timeout=0.2)
            except queue.Empty:
                if lost := self.lost():
                    raise lost from None
                continue
            if id(line) in senders:  # else a stranger at the chief's door
                return senders[id(line)], message

    def _differences(self, facts: dict[int, Any]) -> str:
        chief, lines = _leaves(facts[0]), []
        for index in self.cluster.others:
            there = _leaves(facts[index])
            lines += [
                f"{key} is {there.get(key, 'absent')} on {self.cluster.name(index)}, but "
                f"{chief.get(key, 'absent')} on {self.cluster.name(0)}"
                for key in sorted(chief.keys() | there.keys())
                if chief.get(key) != there.get(key)
            ]
        if not lines:
            return ""
        listed = "\n  ".join(lines)
        return (
            f"the workers differ:\n  {listed}\n"
            "Start all with the same command, data and package versions."
        )


def _leaves(value: Any, prefix: str = "") -> dict[str, str]:
    """`{"fit.seed": "0"}` of `{"fit": {"seed": 0}}`; values as JSON."""
    if not isinstance(value, dict):
        return {prefix.removesuffix("."): json.dumps(value)}
    leaves: dict[str, str] = {}
    for key, inner in value.items():
        leaves |= _leaves(inner, f"{prefix}{key}.")
    return leaves
