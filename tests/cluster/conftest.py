"""Workers as processes of their own, never left behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.processes import Worker
from tf_finetune.cluster.spec import Cluster


@pytest.fixture
def start():
    """Starts `worker.py` as one of a cluster, with options of its `run`."""
    made = []

    def started(addresses, index, prefix=(), script="worker.py", **options):
        environ = {"TF_CONFIG": Cluster(addresses=tuple(addresses), index=index).tf_config()}
        file = str(Path(__file__).with_name(script))
        command = [sys.executable, file, json.dumps(options)]
        made.append(Worker(command, environ, prefix))
        return made[-1]

    yield started
    for worker in made:
        worker.remove()
