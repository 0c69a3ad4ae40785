"""Taking part in a run on several hosts, from the meeting to the goodbye."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from tf_finetune.cluster.gather import gather
from tf_finetune.cluster.lost import PeerLost, perhaps_lost, surely_lost
from tf_finetune.cluster.meeting import Meeting
from tf_finetune.cluster.spec import Cluster
from tf_finetune.cluster.watch import SILENCE


@contextlib.contextmanager
def joined(
    cluster: Cluster, facts: Mapping[str, Any], shared: Any = None, timeout: float = 300.0
) -> Iterator[Meeting]:
    """Meets the other workers, has them watched, and ends together with them.

    TensorFlow's strategy is made inside, where `TF_CONFIG` names the cluster. When another
    worker is gone, the block ends with `PeerLost`, whatever TensorFlow raised; where it
    hangs, the process ends with the message and `LOST_STATUS`.

    Args:
        cluster: who takes part.
        facts: as in `gather`.
        shared: as in `gather`.
        timeout: as in `gather`.

    Yields:
        The meeting.

    Raises:
        UserError: as `gather`.
        PeerLost: when another worker is gone or never came.
    """
    meeting = gather(cluster, facts, shared, timeout)
    os.environ["TF_CONFIG"] = cluster.tf_config()
    try:
        yield meeting
        # Until all are done nobody leaves: the others may still need its device.
        meeting.agree({})
    except Exception as error:
        lost = error if isinstance(error, PeerLost) else _lost(meeting, error)
        meeting.leave("lost" if lost else "failed", str(lost or error))
        if lost and lost is not error:
            raise lost from error
        raise
    except BaseException:
        meeting.leave("stopped")
        raise
    meeting.leave("finished")


def _lost(meeting: Meeting, error: Exception) -> PeerLost | None:
    """Who is gone, if that is why TensorFlow raised the error."""
    if not perhaps_lost(error) or not meeting.cluster.others:
        return None
    # TensorFlow may notice first, and names no address.
    if lost := meeting.lost(SILENCE + 3):
        return lost
    if surely_lost(error):
        return PeerLost(f"TensorFlow has lost another worker, though all answer: {error}")
    return None
