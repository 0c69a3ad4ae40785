"""Kills one of several workers again and again, and lets all come to their end."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.reliability.killing import Killing, newest

_LIMIT = 900.0  # seconds of one start

Around = Callable[[], list[dict[str, str]]]


def killed_together(
    command: Sequence[str],
    around: Around,
    seed: int,
    victims: Sequence[int],
    workdir: Path,
    number: signal.Signals = signal.SIGKILL,
) -> Killing:
    """Starts one or two workers, sends a signal to one at a random moment, and so on; at last none.

    Args:
        command: of each worker.
        around: makes the environments of the workers for one start.
        seed: of the moments: shortly after one of the next checkpoints in the folder.
        victims: a worker's index for each time.
        workdir: of the run.
        number: of the signal.

    Returns:
        What the first worker said each time; the worst `status` of the last start; and the
        most `seconds` that all took to leave.
    """
    moments, result = random.Random(seed), Killing()
    for victim in [*victims, None]:
        more, seconds = moments.randint(1, 6), moments.uniform(0, 0.3)
        running = _started(command, around())
        try:
            if victim is not None and _come(running, workdir / "checkpoints", more):
                time.sleep(seconds)
                running[victim].send_signal(number)
                began = time.monotonic()
                ends = _ended(running)
                result.seconds = max(result.seconds, time.monotonic() - began)
            else:
                ends = _ended(running)
        finally:
            _remove(running)
        result.said.append(ends[0][1])
        if victim is None or any(status == 0 for status, _ in ends):
            break  # at its end, maybe before the signal came
        assert {status for status, _ in ends} <= {-number, 128 + number, 75}, ends
        if len(ends) > 1 and number == signal.SIGKILL:
            assert f"worker {victim} (" in ends[1 - victim][1], ends
        result.kills += 1
    result.status = max(abs(status) for status, _ in ends)
    return result


def _started(command: Sequence[str], around: list[dict[str, str]]) -> list[subprocess.Popen[str]]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [subprocess.Popen(command, env=env, errors="replace", **pipes) for env in around]


def _come(running: list[subprocess.Popen[str]], folder: Path, more: int) -> bool:
    """Waits for so many new checkpoints; False where the workers have ended before."""
    wanted, end = newest(folder) + more, time.monotonic() + _LIMIT
    while newest(folder) < wanted:
        if any(process.poll() is not None for process in running):
            return False
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.005)
    return True


def _ended(running: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit status and words of each."""
    words = [process.communicate(timeout=_LIMIT)[0] for process in running]
    return [(process.returncode, said) for process, said in zip(running, words, strict=True)]


def _remove(running: list[subprocess.Popen[str]]) -> None:
    for process in running:
        process.kill()
        process.wait()
