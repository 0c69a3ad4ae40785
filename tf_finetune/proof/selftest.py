"""Whether a run that is killed ends here as one that is not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tf_finetune.errors import UserError
from tf_finetune.proof.comparing import differences
from tf_finetune.proof.moments import Moment
from tf_finetune.workdir import CARD

# In the order in which they come: each goes on where the one before was killed.
_KILLS = (
    Moment("while features are cached"),
    Moment("in an epoch", 8, 0.002),
    Moment("in a save", 2, 0.002),
    Moment("between two phases", 1, 0.01),
    Moment("in a validation", 2, 0.01),
    Moment("in the evaluation", 1, 0.2),
    Moment("in the export", 1, 1.0),
)
_SHOWN = 10


class _Failed(Exception):
    """A start did not end as it should have."""


def selftest(
    workdir: str | os.PathLike[str] | None = None, *, say: Callable[[str], None] = print
) -> bool:
    """Kills a small run at several stages, lets it go on, and compares its end bit for bit.

    The run fine-tunes a tiny random model on made-up texts; one like it is not disturbed.
    Each start is a process of its own, which SIGKILL ends. Nothing is downloaded.

    Args:
        workdir: a new or an empty folder that keeps both runs; by default they are in a
            temporary one, which stays only if they differ.
        say: where lines for people go.

    Returns:
        Whether weights, optimiser, metrics and history of the two runs are identical.

    Raises:
        UserError: if `workdir` cannot be written or is not empty.
    """
    keep = workdir is not None
    folder = Path(tempfile.mkdtemp(prefix="tf_finetune-")) if workdir is None else _new(workdir)
    try:
        found = _tried(folder, say)
        keep = keep or bool(found)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    for line in found:
        say(line)
    if found:
        say(f"both runs are in {folder}")
    return not found


def _tried(folder: Path, say: Callable[[str], None]) -> list[str]:
    """What was not as it should be, in lines for people."""
    whole, killed = folder / "whole", folder / "killed"
    try:
        say("selftest: a small run from its beginning to its end")
        _start(whole, None, say)
        for moment in _KILLS:
            say(f"selftest: the same run, killed {moment.stage}")
            _start(killed, moment, say)
        say("selftest: the same run, to its end")
        _start(killed, None, say)
    except _Failed as error:
        return [f"selftest FAILED: {error}"]
    if found := differences(whole, killed):
        more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        return [
            "NOT identical: the run that was killed ended otherwise. What differs:",
            *(f"  {name}" for name in [*found[:_SHOWN], *more]),
        ]
    resumed = json.loads((killed / CARD).read_text())["resumed"]
    say(
        f"identical: the run was killed {len(_KILLS)} times and went on from a checkpoint "
        f"{resumed} times; its weights, optimiser, metrics and history are bit for bit those of "
        "the run that was not"
    )
    return []


def _start(run: Path, moment: Moment | None, say: Callable[[str], None]) -> None:
    """Starts a run, and waits for its end, or until it is killed."""
    began, log = time.monotonic(), run.with_name(f"{run.name}.txt")
    scratch = run.parent / "tmp"  # for what a killed process leaves
    scratch.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tf_finetune.proof.start", str(run.parent), run.name]
    if moment:
        command += [moment.stage, str(moment.call), str(moment.seconds)]
    # No part of a run on several hosts.
    around = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"} | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
        "PYTHONUNBUFFERED": "1",
        "KERAS_BACKEND": "tensorflow",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # this process may hold one too
        "TMPDIR": str(scratch),
    }
    with log.open("a") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=around, start_new_session=True
        )
        try:
            status = process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):  # it, and what it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status != (-signal.SIGKILL if moment else 0):
        wanted = "should have been killed" if moment else "should have come to its end"
        raise _Failed(f"a run {wanted}, and ended with status {status}; see {log}")
    say(f"  {time.monotonic() - began:.0f} s")


def _new(workdir: str | os.PathLike[str]) -> Path:
    folder = Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(
            f'--workdir "{folder}" cannot be used: {error.strerror}. Choose another folder.'
        ) from error
    if others:
        raise UserError(
            f'--workdir "{folder}" is not empty (it holds {others[0]}); choose a new or an empty '
            "folder for the selftest, or none."
        )
    return folder
