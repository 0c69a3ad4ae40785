"""A worker that is gone: the others leave, with its name and the status that says why."""

from __future__ import annotations

import os
import signal

import pytest

from tests.cluster.processes import free_addresses

AGAIN = " All workers leave; start all again, and the run goes on from its last checkpoint."


@pytest.fixture
def three(start):
    """Three workers that have met, and their addresses."""
    addresses = free_addresses(3)
    workers = [start(addresses, index, shared=index) for index in range(3)]
    for worker in workers:
        assert [worker.says(), worker.says()] == ["starts", "met 0"]
    return workers, addresses


# Main threads that wait in `agree` leave by themselves, those that hang are ended.
@pytest.mark.parametrize(
    ("how", "gone", "busy"),
    [
        (signal.SIGKILL, 0, "hang"),
        (signal.SIGKILL, 2, "agree 1"),
        (signal.SIGSTOP, 0, "agree 1"),
        (signal.SIGSTOP, 2, "hang"),
    ],
)
def test_all_leave_when_one_is_gone(three, how: signal.Signals, gone: int, busy: str) -> None:
    workers, addresses = three
    for worker in workers:
        worker.do(busy)
    workers[gone].process.send_signal(how)
    why = {
        signal.SIGKILL: "its connection has ended.",
        signal.SIGSTOP: "nothing was heard of it for 3 s.",
    }[how]
    message = f"worker {gone} ({addresses[gone]}) is lost: {why}{AGAIN}"
    prefix = "tf-finetune: "
    for left in (w for i, w in enumerate(workers) if i != gone):
        status, said = left.ends()
        assert (status, said.removeprefix(prefix)) == (75, message)
        assert said.startswith(prefix) or busy != "hang"  # a slow one is ended too
    if how is signal.SIGSTOP:  # it finds the others gone when it comes back
        workers[gone].do("agree 1")
        workers[gone].process.send_signal(signal.SIGCONT)
        status, said = workers[gone].ends()
        assert status == 75
        assert "is lost: its connection has ended." in said or "is lost: nothing was heard" in said


def test_workers_that_finish_are_not_lost_and_leave_together(three) -> None:
    workers, _ = three
    for worker in workers[1:]:
        worker.do("finish")
    # The first two wait for the chief, far longer than silence would be borne.
    with pytest.raises(Exception, match="timed out"):
        workers[1].process.wait(5)
    workers[0].do("finish")
    for worker in workers:
        assert worker.says() == "finished"
        assert worker.ends() == (0, "")


def test_what_one_fails_of_is_said_by_all(three) -> None:
    workers, addresses = three
    for other in (workers[0], workers[2]):
        other.do("agree 1")
    workers[1].do("fail no such file: x.csv.")
    assert workers[1].ends() == (2, "no such file: x.csv.")
    message = f"worker 1 ({addresses[1]}) has failed: no such file: x.csv. All workers leave; mend"
    for other in (workers[0], workers[2]):
        status, said = other.ends()
        assert status == 75
        assert said.startswith(message)


def test_a_worker_that_was_stopped_is_not_lost(three) -> None:
    workers, addresses = three
    for other in (workers[0], workers[2]):
        other.do("agree 1")
    workers[1].do("exit 143")
    assert workers[1].ends() == (143, "")
    for other in (workers[0], workers[2]):
        assert other.ends() == (75, f"worker 1 ({addresses[1]}) was stopped.{AGAIN}")


def test_what_is_found_out_later_is_compared_too(three) -> None:
    workers, addresses = three
    for worker in workers:
        worker.do("agree 7")
    assert [worker.says() for worker in workers] == ['agreed "7"'] * 3
    for index, worker in enumerate(workers):
        worker.do(f"agree {index // 2}")
    for worker in workers:
        status, said = worker.ends()
        assert status == 2
        assert f'value is "1" on worker 2 ({addresses[2]}), but "0" on worker 0' in said


def test_a_worker_that_comes_late_is_told_why_it_is_not_let_in(three, start) -> None:
    workers, addresses = three
    for other in workers[:2]:
        other.do("hang")
    workers[2].process.kill()
    workers[2].process.wait()
    late = start(addresses, 2, timeout=1.0)
    status, said = late.ends()
    assert status == 75
    assert said.startswith(f"worker 0 ({addresses[0]}) did not come within 1 s")
    assert [other.ends()[0] for other in workers[:2]] == [75, 75]
    # All started again, they meet at the same ports.
    again = [start(addresses, index) for index in range(3)]
    for worker in again:
        assert [worker.says(), worker.says()] == ["starts", "met null"]
        worker.do("finish")
    assert [worker.ends() for worker in again] == [(0, "")] * 3


def test_a_worker_that_sleeps_with_the_others_is_not_lost(three) -> None:
    workers, _ = three
    for worker in workers:
        os.kill(worker.process.pid, signal.SIGSTOP)
    with pytest.raises(Exception, match="timed out"):
        workers[0].process.wait(6)  # twice the silence
    for worker in workers:
        os.kill(worker.process.pid, signal.SIGCONT)
    for worker in workers:
        worker.do("finish")
    assert [worker.ends() for worker in workers] == [(0, "")] * 3


@pytest.mark.parametrize("asked", [[0], [1], [2, 1, 0]])
def test_all_stop_after_the_same_batch(three, asked: list[int]) -> None:
    workers, _ = three
    for index, worker in enumerate(workers):
        # The chief's checkpoint takes longer than a worker that is gone would be borne.
        worker.do(f"train {3 * (index == 0)}")
    assert [worker.says() for worker in workers] == ["trains"] * 3
    for index in asked:
        workers[index].process.send_signal(signal.SIGTERM)
    (said,) = {worker.says() for worker in workers}
    assert said.startswith("stops after ")
    assert [worker.ends() for worker in workers] == [(143, "")] * 3


def test_a_worker_that_is_killed_while_all_stop_is_lost(three) -> None:
    workers, addresses = three
    for worker in workers:
        worker.do("train 0")
    assert [worker.says() for worker in workers] == ["trains"] * 3
    workers[1].process.send_signal(signal.SIGSTOP)
    workers[2].process.send_signal(signal.SIGTERM)
    for other in (workers[0], workers[2]):
        status, said = other.ends()
        assert status == 75
        assert f"worker 1 ({addresses[1]}) is lost: nothing was heard of it for 3 s." in said
