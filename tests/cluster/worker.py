"""A worker that meets the others and then does what it is told on stdin; no TensorFlow."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from tf_finetune.cluster import gather, watch
from tf_finetune.cluster.join import joined
from tf_finetune.cluster.lost import LOST_STATUS, PeerLost
from tf_finetune.cluster.spec import read_cluster
from tf_finetune.errors import UserError


def run(facts=None, shared=None, timeout=20.0, silence=3.0, grace=1.0, killed_once=""):
    watch.SILENCE, watch.GRACE, gather.SILENCE = silence, grace, silence
    cluster = read_cluster()
    assert cluster
    print("starts", flush=True)
    with joined(cluster, facts or {}, shared, timeout) as meeting:
        print("met", json.dumps(meeting.shared), flush=True)
        if killed_once and cluster.index == 1 and not Path(killed_once).exists():
            Path(killed_once).touch()
            os.kill(os.getpid(), 9)
        for line in sys.stdin:
            command, _, value = line.strip().partition(" ")
            if command == "finish":
                break
            if command == "hang":
                time.sleep(1000)
            if command == "agree":
                print("agreed", json.dumps(meeting.agree({"value": value}, value)), flush=True)
            if command == "train":
                train(meeting, float(value))
            if command == "fail":
                raise UserError(value)
            if command == "exit":
                sys.exit(int(value))
    print("finished", flush=True)


def train(meeting, seconds):
    """Batches that no worker finishes without the others, until SIGTERM to any of them."""
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    for batch in range(1, 1_000_000):
        meeting.agree({"batch": batch})
        if batch == 3:
            print("trains", flush=True)
        if meeting.stops(bool(asked)):
            print("stops after", batch, flush=True)
            time.sleep(seconds)  # saves
            sys.exit(143)


if __name__ == "__main__":
    try:
        run(**json.loads(sys.argv[1]))
    except UserError as error:
        sys.exit(print(error, file=sys.stderr) or 2)
    except PeerLost as error:
        sys.exit(print(error, file=sys.stderr) or LOST_STATUS)
