"""The run folder: what it may hold, and whether a run may begin in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tf_finetune.config import FineTuneConfig, differences
from tf_finetune.errors import UserError
from tf_finetune.whole import written_whole

CONFIG, CARD, MODEL, HISTORY = "config.json", "metrics.json", "model.keras", "metrics.jsonl"
FINDINGS = "findings.csv"
READINGS = "test_readings.json"
RECIPE = "recipe.py"
ADAPTER, CHECKPOINTS, LOOKS = "adapter.safetensors", "checkpoints", "looks"
# What a run that failed or was killed before training may have left behind.
_PROBE = ".write-test"
_SCRATCH = {"cache", ".lock", _PROBE, f"writing-{CONFIG}"}
# Settings that say how a file is read, which may be another than that of training.
READING = tuple(
    f"data.{name}"
    for name in (
        "text",
        "text_pair",
        "image",
        "label",
        "label_separator",
        "soft_labels",
        "delimiter",
        "encoding",
        "bad_rows",
    )
)


def prepare_workdir(workdir: Path, config: FineTuneConfig) -> bool:
    """Makes the run folder, or checks the one that is there.

    Returns:
        Whether the folder holds this very run, finished.

    Raises:
        UserError: if the folder cannot be written, holds other files, or holds a
            run with another configuration; nothing in it is touched then.
    """
    check_writable(workdir)
    if (workdir / CONFIG).exists():
        check_same_config(workdir, config)
        return (workdir / CARD).exists()
    if others := sorted({p.name for p in workdir.iterdir()} - _SCRATCH):
        raise UserError(
            f'--workdir "{workdir}" is no run folder and is not empty (it holds {others[0]}); '
            "choose a new or an empty folder."
        )
    return False


def begin(workdir: Path, config: FineTuneConfig, data_report: str, findings: str = "") -> None:
    """Makes a prepared folder that of a run; clears what an unfinished one left in it.

    Args:
        workdir: of the run.
        config: of the run.
        data_report: as in `Prepared.report`.
        findings: as `Findings.to_csv` gives them; empty writes no file.
    """
    # First of all: without it the folder is that of no run.
    write_atomically(workdir / CONFIG, config.to_json())
    for name in (CHECKPOINTS, "logs"):
        shutil.rmtree(workdir / name, ignore_errors=True)
    (workdir / MODEL).unlink(missing_ok=True)
    write_atomically(workdir / "data_report.md", data_report)
    (workdir / FINDINGS).unlink(missing_ok=True)
    if findings:
        write_atomically(workdir / FINDINGS, findings)
    (workdir / HISTORY).write_text("")


def read_card(workdir: Path) -> dict[str, Any]:
    """The card of a finished run.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        return json.loads((workdir / CARD).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f'"{workdir / CARD}" cannot be read ({error}). Copy it again.') from None


def read_history(workdir: Path) -> list[dict[str, Any]]:
    """The epochs of a run, as in `metrics.jsonl`."""
    lines = (workdir / HISTORY).read_text().splitlines()
    return [json.loads(line) for line in lines]


def note_reading(workdir: Path) -> int:
    """Writes down that the test split is read now; how often that is, with this time."""
    file = workdir / READINGS
    times = 1 + (json.loads(file.read_text())["times"] if file.exists() else 0)
    write_atomically(file, json.dumps({"times": times}) + "\n")
    return times


def check_room(workdir: Path, needed: int) -> None:
    """Raises `UserError` unless the folder's disk has so many bytes free."""
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise UserError(
            f'--workdir "{workdir}": its disk has {free / 1e6:,.0f} MB free, but checkpoints, '
            f"model and export take {needed / 1e6:,.0f} MB or more. Make room there, or choose "
            "another folder."
        )


def check_same_config(
    workdir: Path,
    config: FineTuneConfig,
    *,
    but: Collection[str] = (),
    mend: str = "Choose another --workdir, or go back to the same settings.",
) -> None:
    """Raises `UserError` naming every setting that differs from the folder's.

    Args:
        workdir: a run folder.
        config: to compare with.
        but: settings that may differ.
        mend: what the message ends with.
    """
    changed = differences(read_config(workdir), config)
    if changed := [line for line in changed if line.partition(":")[0] not in but]:
        raise UserError(
            f'"{workdir}" holds a run with another configuration:\n  '
            + "\n  ".join(changed)
            + f"\n{mend}"
        )


def check_finished(workdir: Path) -> None:
    """Raises `UserError` if the folder's run has not come to its end."""
    read_config(workdir)
    if not (workdir / CARD).exists():
        raise UserError(
            f'"{workdir}" holds a run that has not finished; give its train command again.'
        )


def read_config(workdir: Path) -> FineTuneConfig:
    """The configuration of the run in a folder.

    Raises:
        UserError: if the folder holds no run.
    """
    file = Path(workdir) / CONFIG
    if not file.exists():
        raise UserError(f'"{workdir}" is no run folder: it has no {CONFIG}. Train there first.')
    try:
        return FineTuneConfig.from_json(file.read_text())
    except ValueError as error:
        raise UserError(f'"{file}" cannot be read: {error}') from error


def write_atomically(file: Path, text: str) -> None:
    """Writes a text file under a temporary name, then renames it."""
    with written_whole(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(workdir: Path) -> None:
    """Makes the folder; raises `UserError` where nothing can be written to it."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / _PROBE
        probe.touch()
        probe.unlink(missing_ok=True)  # other workers of the run may look at the same time
    except OSError as error:
        reason = "it is a file" if workdir.is_file() else error.strerror
        raise UserError(
            f'--workdir "{workdir}" cannot be written: {reason}. Choose another folder.'
        ) from error
