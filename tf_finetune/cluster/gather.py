"""Where the workers of a run meet, before TensorFlow starts its own cluster.

Every worker listens at its own port and says there which one it is. All go to the chief.
Once they are complete they compare what must be the same, try that each reaches each
other, and give their ports free for TensorFlow; the connections to the chief stay.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from tf_finetune.cluster.lost import PeerLost
from tf_finetune.cluster.meeting import Meeting
from tf_finetune.cluster.spec import Cluster, split_address
from tf_finetune.cluster.watch import SILENCE
from tf_finetune.cluster.wire import Inbox, Line, Message, listen, stop_listening
from tf_finetune.errors import UserError

# Of what workers say; raised with any change of it.
_PROTOCOL = 1
# Seconds for one try to reach an address, and between two.
_TRY, _PAUSE = 5.0, 0.3


def gather(
    cluster: Cluster, facts: Mapping[str, Any], shared: Any = None, timeout: float = 300.0
) -> Meeting:
    """Waits until all workers are there and agree.

    Args:
        cluster: who takes part.
        facts: what must be the same on all workers, as JSON knows it: the configuration,
            a digest of the data, the versions of packages.
        shared: on the chief, what all must know, as JSON knows it.
        timeout: seconds to wait for the others.

    Returns:
        The meeting; its `shared` is that of the chief.

    Raises:
        UserError: if this worker's port is in use, if two say that they are the same, if a
            worker does not reach another, or with all facts that differ.
        PeerLost: with the address of every worker that did not come in time.
    """
    inbox: Inbox = queue.SimpleQueue()
    if not cluster.others:
        meeting = Meeting(cluster, {}, inbox, None)
        meeting.shared = meeting.agree({}, shared)
        return meeting
    door = _open_door(cluster, inbox)
    try:
        if cluster.chief:
            lines = _wait_for_all(cluster, inbox, timeout)
        else:
            line, inbox = _go_to_chief(cluster, timeout)
            lines = {0: line}
        return _compared(Meeting(cluster, lines, inbox, door), facts, shared, door)
    except BaseException:
        stop_listening(door)
        door.close()
        raise


def _compared(
    meeting: Meeting, facts: Mapping[str, Any], shared: Any, door: socket.socket
) -> Meeting:
    try:
        meeting.agree(facts)
        meeting.judged(_reach_others(meeting.cluster), _first)
        # Nobody starts TensorFlow while another still listens at its port.
        stop_listening(door)
        meeting.shared = meeting.agree({}, shared)
    except PeerLost as lost:
        meeting.leave("lost", str(lost))
        raise
    except UserError:  # which all have heard
        meeting.leave("finished")
        raise
    except BaseException:
        meeting.leave("stopped")
        raise
    return meeting


def _open_door(cluster: Cluster, inbox: Inbox) -> socket.socket:
    _, port = split_address(cluster.addresses[cluster.index])
    try:
        door = listen(port)
    except OSError as error:
        raise UserError(
            f"port {port} of {cluster.name(cluster.index)} cannot be had: {error.strerror}. End "
            f"what uses it, or give this worker another port ({cluster.source})."
        ) from None
    threading.Thread(target=_receive, args=(cluster, door, inbox), daemon=True).start()
    return door


def _receive(cluster: Cluster, door: socket.socket, inbox: Inbox) -> None:
    """Says to everyone who comes which worker this is, until the door is shut."""
    while True:
        try:
            connection, _ = door.accept()
        except OSError:
            return
        Line(connection, inbox).send({"tf_finetune": _PROTOCOL, "index": cluster.index})


def _wait_for_all(cluster: Cluster, inbox: Inbox, timeout: float) -> dict[int, Line]:
    """On the chief: the line to each of the others."""
    deadline = time.monotonic() + timeout
    here: dict[int, tuple[Line, str]] = {}
    while True:
        try:
            line, message = inbox.get(timeout=_PAUSE)
        except queue.Empty:
            pass
        else:
            _admit(cluster, here, line, message)
        # One that died while it waited may come again.
        here = {index: one for index, one in here.items() if not one[0].ended}
        lines = {index: line for index, (line, _) in sorted(here.items())}
        missing = [index for index in cluster.others if index not in here]
        if not missing:
            for line in lines.values():
                line.send({"complete": True})
            return lines
        for line in lines.values():
            line.beat()
        if time.monotonic() > deadline:
            late = _did_not_come(cluster, missing, timeout)
            for line in lines.values():
                line.part({"kind": "lost", "why": str(late)})
            raise late


def _admit(cluster: Cluster, here: dict[int, tuple[Line, str]], line: Line, hello: Message) -> None:
    """Takes in a worker that has said who it is; strangers are left standing."""
    index, host, addresses = (hello.get(key) for key in ("index", "host", "addresses"))
    if "tf_finetune" not in hello or not isinstance(addresses, list) or type(index) is not int:
        line.close()
        return
    host, wrong = str(host), ""
    if hello["tf_finetune"] != _PROTOCOL:
        wrong = f"worker {index} on {host} has another version of tf_finetune; install the same."
    elif addresses != list(cluster.addresses) or index not in cluster.others:
        wrong = (
            f"worker {index} on {host} has other addresses, {', '.join(map(str, addresses))}, than "
            f"{cluster.name(0)}, {', '.join(cluster.addresses)}. Give all workers the same."
        )
    elif index in here and here[index][1] != host and not here[index][0].ended:
        wrong = (
            f"both {here[index][1]} and {host} say that they are worker {index}. Give each an "
            f"index of its own ({cluster.source})."
        )
    if wrong:
        for other in (line, *(one for one, _ in here.values())):
            other.part({"kind": "failed", "why": wrong})
        raise UserError(wrong)
    here[index] = (line, host)


def _go_to_chief(cluster: Cluster, timeout: float) -> tuple[Line, Inbox]:
    """On the others: the line to the chief, once all are there."""
    deadline = time.monotonic() + timeout
    while True:
        inbox: Inbox = queue.SimpleQueue()
        try:
            line = _reach(cluster, 0, inbox)
        except OSError as error:
            if time.monotonic() > deadline:
                raise _did_not_come(cluster, [0], timeout, f" ({_reason(error)})") from None
            time.sleep(_PAUSE)
            continue
        line.send(
            {
                "tf_finetune": _PROTOCOL,
                "index": cluster.index,
                "addresses": list(cluster.addresses),
                "host": socket.gethostname(),
            }
        )
        if _complete(line, inbox):
            return line, inbox
        # The chief was ended while it waited; the next one is waited for.


def _complete(line: Line, inbox: Inbox) -> bool:
    """Waits as long as the chief does; False if it is gone."""
    while not line.ended and time.monotonic() - line.heard < SILENCE:
        line.beat()
        try:
            inbox.get(timeout=1)
        except queue.Empty:
            continue
        return True
    if line.bye.get("kind") == "failed":
        raise UserError(str(line.bye["why"]))
    if line.bye.get("kind") == "lost":
        raise PeerLost(str(line.bye["why"]))
    line.close()
    return False


def _reach(cluster: Cluster, index: int, inbox: Inbox) -> Line:
    """A line to a worker that is there and is the one it should be.

    Raises:
        OSError: if not.
    """
    host, port = split_address(cluster.addresses[index])
    line = Line(socket.create_connection((host, port), timeout=_TRY), inbox)
    try:
        _, greeting = inbox.get(timeout=_TRY)
    except queue.Empty:
        greeting = {}
    if greeting.get("index") != index or "tf_finetune" not in greeting:
        line.close()
        who = f"worker {greeting['index']}" if "tf_finetune" in greeting else "no worker that waits"
        raise ConnectionError(f"{who} answers there")
    return line


def _reach_others(cluster: Cluster) -> str:
    """What keeps this worker from reaching another; an empty string if nothing does."""
    for index in cluster.others:
        try:
            _reach(cluster, index, queue.SimpleQueue()).close()
        except OSError as error:
            return (
                f"{cluster.name(cluster.index)} does not reach {cluster.name(index)}: "
                f"{_reason(error)}. Correct the address ({cluster.source}), or open the port "
                "between the two."
            )
    return ""


def _first(said: dict[int, Any]) -> str:
    return next((problem for _, problem in sorted(said.items()) if problem), "")


def _did_not_come(cluster: Cluster, missing: list[int], timeout: float, why: str = "") -> PeerLost:
    names = ", ".join(cluster.name(index) for index in missing)
    return PeerLost(
        f"{names} did not come within {timeout:g} s (config.fit.peer_timeout){why}. See why there, "
        f"or correct the addresses ({cluster.source}); then start all again."
    )


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
