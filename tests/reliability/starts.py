"""Runs in processes that are sent signals at chosen moments."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_finetune import main
from tf_finetune.proof.moments import Moment, send_at

# TensorFlow is imported once, in a process that does nothing but fork.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["tf_finetune.train", __name__])


def started(
    command: Sequence[str],
    log: Path,
    moment: Moment | None = None,
    number: signal.Signals = signal.SIGKILL,
) -> int:
    """Starts a command in a process forked for it, and waits for its end.

    Args:
        command: flags of `tf-finetune`.
        log: gets what it says.
        moment: when it is sent a signal; None leaves it alone.
        number: of the signal.

    Returns:
        Its status, -9 if it was killed.
    """
    process = _FORKED.Process(target=_run, args=(list(command), log, moment, number))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(command: list[str], log: Path, moment: Moment | None, number: signal.Signals) -> Any:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if moment:
        send_at(moment, number)
    sys.argv = ["tf-finetune", *command]
    sys.exit(main.run())
