import errno
import itertools
import threading

import numpy as np
import pytest

from tf_finetune.checkpoints.files import CheckpointFiles
from tf_finetune.checkpoints.saver import Saver


class Files:
    """Keeps what is written, once it is let."""

    def __init__(self):
        self.written, self.error, self.let = [], None, threading.Event()
        self.let.set()

    def write(self, arrays, facts):
        self.let.wait(10)
        if self.error:
            raise self.error
        self.written.append(facts)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def files():
    return Files()


def saver(files, **options):
    options.setdefault("clock", Clock())
    return Saver(files, **options)


def test_a_fixed_number_of_updates_between_two(files):
    made = saver(files, every=3)
    made.begin(2)
    for updates in range(3, 12):
        if made.due(updates):
            made.save(lambda u=updates: ({}, u), updates)
            made.wait()
    assert files.written == [5, 8, 11]


def test_by_cost_the_next_waits_fifty_times_as_long_and_ten_seconds_at_least(files):
    clock = Clock()
    made = saver(files, clock=clock)

    def take(seconds):
        clock.now += seconds
        return {}, seconds

    clock.now += 9.9
    assert not made.due(10**6)
    clock.now += 0.2
    assert made.due(1)
    made.save(lambda: take(2.0))
    assert made.seconds == pytest.approx(2.0)
    made.wait()
    clock.now += 99.5
    assert not made.due(10**6)
    clock.now += 5  # and the writing thread's own time
    assert made.due(1)


def test_by_cost_one_that_is_being_written_delays_the_next(files):
    clock = Clock()
    made = saver(files, clock=clock)
    files.let.clear()
    made.save(lambda: ({}, 1), 1)
    clock.now += 1000
    assert not made.due(5)
    files.let.set()
    made.wait()
    assert made.due(5)
    made.close()
    assert files.written == [1]


def test_a_fixed_number_of_updates_waits_for_the_one_that_is_being_written(files):
    made = saver(files, every=1)
    files.let.clear()
    made.save(lambda: ({}, 1), 1)
    assert made.due(2)
    threading.Timer(0.1, files.let.set).start()
    made.save(lambda: ({}, 2), 2)
    made.close()
    assert files.written == [1, 2]


def test_a_full_disk_is_said_once_and_tried_again(files):
    said = []
    made = saver(files, every=1, say=said.append)
    files.error = OSError(errno.ENOSPC, "No space left on device")
    for updates in (1, 2):
        made.save(lambda: ({}, "lost"), updates)
        made.wait()
    (line,) = said
    assert "No space left on device" in line
    assert "training goes on, and the next one is tried again" in line
    files.error = None
    made.save(lambda: ({}, "written"), 3)
    made.wait()
    files.error = OSError(errno.ENOSPC, "No space left on device")
    made.save(lambda: ({}, "lost"), 4)
    made.close()
    assert files.written == ["written"]
    assert len(said) == 2


def test_a_fault_of_ours_is_not_hidden(files):
    made = saver(files)
    files.error = TypeError("cannot be written as JSON")
    made.save(lambda: ({}, 1))
    with pytest.raises(TypeError):
        made.close()


@pytest.mark.parametrize("every", [0, 1])
def test_no_clock_of_the_machine_is_asked(tmp_path, monkeypatch, every):
    """It may go backwards."""
    times = itertools.count(1e9, -3600)
    monkeypatch.setattr("time.time", lambda: next(times))
    made = Saver(CheckpointFiles(tmp_path), every=every)
    for updates in range(1, 4):
        made.save(lambda u=updates: ({"u": np.array(u)}, u), updates)
    made.close()
    assert CheckpointFiles(tmp_path).newest().facts == 3
