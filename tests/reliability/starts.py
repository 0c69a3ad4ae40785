"""Runs in processes that are killed at chosen or random moments."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_finetune import main
from tf_finetune.proof.moments import Moment, send_at

ROOT = Path(__file__).resolve().parents[2]
# TensorFlow is imported once, in a process that does nothing but fork.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["tf_finetune.train", __name__])


def started(command: Sequence[str], log: Path, moment: Moment | float | None = None) -> int:
    """Starts a command in a process forked for it, which SIGKILL ends.

    Args:
        command: flags of `tf-finetune`.
        log: gets what it says.
        moment: when to kill it, or after how many seconds; None leaves it alone.

    Returns:
        The status of its end, -9 if it was killed.
    """
    at = moment if isinstance(moment, Moment) else None
    process = _FORKED.Process(target=_run, args=(list(command), log, at, signal.SIGKILL))
    process.start()
    if isinstance(moment, float):
        process.join(moment)
        process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def terminated(command: Sequence[str], log: Path, moment: Moment) -> int:
    """Starts a command in a fresh process, which is sent SIGTERM; returns its status."""
    given = [list(command), str(log), [moment.stage, moment.call, moment.seconds]]
    around = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    module = [sys.executable, "-m", "tests.reliability.starts", json.dumps(given)]
    return subprocess.run(module, cwd=ROOT, env=around).returncode


def _run(command: list[str], log: Path, moment: Moment | None, number: signal.Signals) -> Any:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if moment:
        send_at(moment, number)
    sys.argv = ["tf-finetune", *command]
    sys.exit(main.run())


if __name__ == "__main__":
    flags, file, at = json.loads(sys.argv[1])
    _run(flags, Path(file), Moment(*at), signal.SIGTERM)
