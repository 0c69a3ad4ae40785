"""Moments of a run at which its process is sent a signal, from within."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pkgutil
import signal
import threading
from typing import Any

# Each is a function that a run calls: whose it is, and its name.
STAGES = {
    "while features are cached": ("tf_finetune.fit.frozen_part:FrozenPart", "features"),
    "in an epoch": ("tf_finetune.fit.resuming:SaveState", "on_train_batch_end"),
    "in a save": ("tf_finetune.checkpoints.files:CheckpointFiles", "write"),
    "in a validation": ("tf_finetune.fit.resuming:SaveState", "on_test_batch_end"),
    "between two phases": ("tf_finetune.resume:Ongoing", "save"),
    "in the evaluation": ("tf_finetune.train", "judge"),
    "in the export": ("tf_finetune.exports.every_format", "export_all"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """When a process is sent a signal.

    Attributes:
        stage: of `STAGES`.
        call: which of the stage's calls, from 1 at the process's start.
        seconds: after that call begins; the call does not end before.
    """

    stage: str
    call: int = 1
    seconds: float = 0.0


def send_at(moment: Moment, number: signal.Signals = signal.SIGKILL) -> None:
    """Has this process sent a signal at a moment; to be called before the run."""
    place, name = STAGES[moment.stage]
    owner = pkgutil.resolve_name(place)
    function, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if next(calls) != moment.call:
            return function(*args, **kwargs)
        sent = threading.Event()

        def send() -> None:
            os.kill(os.getpid(), number)
            sent.set()

        threading.Timer(moment.seconds, send).start()
        try:
            return function(*args, **kwargs)
        finally:
            sent.wait()

    setattr(owner, name, watched)
