"""With TensorFlow's own cluster at the same ports: a worker that is gone in a collective."""

from __future__ import annotations

import signal

import pytest

from tests.cluster.processes import free_addresses


@pytest.mark.parametrize(
    ("how", "gone", "why"),
    [
        (signal.SIGKILL, 1, "its connection has ended."),
        (signal.SIGSTOP, 0, "nothing was heard of it for 15 s."),
    ],
)
def test_the_other_leaves_within_30_seconds(start, how: int, gone: int, why: str) -> None:
    addresses = free_addresses(2)
    workers = [start(addresses, index, script="training_worker.py") for index in range(2)]
    assert [worker.says(120) for worker in workers] == ["sum 3.0"] * 2
    workers[gone].process.send_signal(how)
    status, said = workers[1 - gone].ends(30)
    assert status == 75, said
    assert f"worker {gone} ({addresses[gone]}) is lost: {why} All workers leave; start" in said
    assert "Traceback" not in said
