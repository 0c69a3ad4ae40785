"""Kills a command again and again, and lets it come to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Sequence


@dataclasses.dataclass
class Killing:
    """What became of a command.

    Attributes:
        kills: how often it was killed before its end.
        said: what each start printed.
        status: of the last start, which was left alone.
        seconds: that this one worked after its first line.
    """

    kills: int = 0
    said: list[str] = dataclasses.field(default_factory=list)
    status: int = 0
    seconds: float = 0.0


def killed_and_resumed(
    command: Sequence[str],
    seed: int,
    kills: int,
    *,
    seconds: float = 10.0,
    number: signal.Signals = signal.SIGKILL,
    quick: bool = False,
) -> Killing:
    """Starts a command, kills it at a random moment, and so on; at last it is left alone.

    Args:
        command: to be given again after each kill.
        seed: of the moments.
        kills: how many; fewer where the command comes to its end before.
        seconds: about how long it works once it has printed its first line. Moments are
            drawn from these, and a fifth of them from the time before.
        number: of the signal.
        quick: only moments from after the first line.
    """
    moments = random.Random(seed)
    result = Killing()
    for _ in range(kills):
        early = not quick and moments.random() < 0.2
        delay = moments.uniform(0, seconds)
        text, status, _ = _start(command, delay, number, after_line=not early)
        result.said.append(text)
        if status != -number and status != 128 + number:
            result.status = status
            return result
        result.kills += 1
    text, result.status, result.seconds = _start(command, None, number, after_line=True)
    result.said.append(text)
    return result


def _start(
    command: Sequence[str], delay: float | None, number: signal.Signals, *, after_line: bool
) -> tuple[str, int, float]:
    around = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    process = subprocess.Popen(
        command,
        env=around | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout
    with process, contextlib.ExitStack() as stack:
        line = process.stdout.readline() if after_line else ""
        if delay is not None:
            timer = threading.Timer(delay, process.send_signal, [number])
            timer.start()
            stack.callback(timer.cancel)
        began = time.monotonic()
        text = line + process.stdout.read()
        return text, process.wait(), time.monotonic() - began
