"""Kills a command again and again, and lets it come to its end."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path


@dataclasses.dataclass
class Killing:
    """What became of a command.

    Attributes:
        kills: how often it was killed before its end.
        said: what each start printed.
        status: of the last start, which was left alone.
        seconds: that this one took.
    """

    kills: int = 0
    said: list[str] = dataclasses.field(default_factory=list)
    status: int = 0
    seconds: float = 0.0


@dataclasses.dataclass
class Moment:
    """When to send a signal: so many seconds after the start, or after some checkpoints.

    Attributes:
        folder: where those appear; None goes by the seconds alone.
        checkpoints: how many more there must be than at the start.
    """

    seconds: float
    folder: Path | None = None
    checkpoints: int = 0


def killed_and_resumed(
    command: Sequence[str],
    seed: int,
    kills: int,
    *,
    seconds: float = 10.0,
    workdir: Path | None = None,
    number: signal.Signals = signal.SIGKILL,
    in_training: bool = False,
) -> Killing:
    """Starts a command, kills it at a random moment, and so on; at last it is left alone.

    Args:
        command: to be given again after each kill.
        seed: of the moments.
        kills: how many; fewer where the command comes to its end before.
        seconds: about how long it takes; moments are drawn from all of them.
        workdir: of the run; every other moment then comes shortly after one of the next
            checkpoints in it, as training takes few of the seconds of a small run.
        number: of the signal.
        in_training: all moments come after a checkpoint.
    """
    moments = random.Random(seed)
    result = Killing()
    for i in range(kills):
        moment = Moment(moments.uniform(0, seconds))
        if workdir and (in_training or i % 2):
            more = moments.randint(1, 8)
            moment = Moment(moments.uniform(0, 0.1), workdir / "checkpoints", more)
        text, status, _ = _start(command, moment, number)
        result.said.append(text)
        if status not in (-number, 128 + number):
            result.status = status
            return result
        result.kills += 1
    text, result.status, result.seconds = _start(command, None, number)
    result.said.append(text)
    return result


def _start(
    command: Sequence[str], moment: Moment | None, number: signal.Signals
) -> tuple[str, int, float]:
    around = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        env=around | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if moment:
        threading.Thread(target=_kill, args=(process, moment, number), daemon=True).start()
    text, _ = process.communicate()
    return text, process.returncode, time.monotonic() - began


def _kill(process: subprocess.Popen[str], moment: Moment, number: signal.Signals) -> None:
    if moment.folder:
        wanted = _newest(moment.folder) + moment.checkpoints
        while process.poll() is None and _newest(moment.folder) < wanted:
            time.sleep(0.002)
    end = time.monotonic() + moment.seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)  # nothing, where it has ended


def _newest(folder: Path) -> int:
    names = os.listdir(folder) if folder.is_dir() else []
    return max((int(name) for name in names if name.isdecimal()), default=0)
