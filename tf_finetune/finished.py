"""What a finished run gives back, from its folder too."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tf_finetune import workdir as folder
from tf_finetune.assemble import SPLITS
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.prepare import prepare
from tf_finetune.errors import UserError
from tf_finetune.exports.load import load_model


@dataclasses.dataclass(slots=True, kw_only=True)
class FitResult:
    """What a run gives back.

    Attributes:
        metrics: the card, as in `metrics.json`: `metrics["test"]["accuracy"]`.
        history: one dict an epoch over all phases, as in `metrics.jsonl`; a head
            that was trained only to compare with is the phase `probe-baseline`.
        model: the fine-tuned `TextTask` or `ImageTask`; `model.predict(["a text"])`.
        workdir: the run folder.
        trials: of a tuning, in their order: `values` by setting, the validation `figures` after
            each phase, `how` it ended (`best`, `finished`, `pruned`, `diverged`, `failed` or
            `refused`) and `seconds`.
    """

    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    model: Any
    workdir: Path
    trials: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def load_result(workdir: Path) -> FitResult:
    """The result of a finished run, from its folder."""
    return FitResult(
        metrics=json.loads((workdir / folder.CARD).read_text()),
        history=folder.read_history(workdir),
        model=load_model(workdir),
        workdir=workdir,
    )


def rows_of_run(workdir: Path) -> tuple[pa.Table, dict[str, np.ndarray]] | None:
    """The rows of the run's data, and which are of which split.

    None if they are gone, or a picture of theirs is.
    """
    cache = workdir / "cache"
    if not ((cache / SPLITS).exists() and (cache / "rows.arrow").exists()):
        return None
    with np.load(cache / SPLITS) as arrays:
        splits = dict(arrays)
    table = pa.ipc.open_file(pa.memory_map(str(cache / "rows.arrow"))).read_all()
    if "image" in table.column_names:
        held = pa.array(np.concatenate([*splits.values()]))
        if not all(map(os.path.isfile, table["image"].take(held).to_pylist())):
            return None
    return table, splits


def check_same_data(workdir: Path, config: FineTuneConfig, data: Any) -> None:
    """Raises `UserError` where a finished run was on other data than those handed over.

    The configuration does not name these.
    """
    with tempfile.TemporaryDirectory(prefix="tf_finetune-compare-") as scratch:
        digest = prepare(config, Path(scratch), data).digest
    if digest != json.loads((workdir / folder.CARD).read_text())["data_digest"]:
        raise UserError(
            f'"{workdir}" holds a run on other data, with the same configuration; choose another '
            "workdir."
        )


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide the numbers."""
    names = ("tf_finetune", "tensorflow", "keras", "keras-hub", "tensorflow-text", "numpy")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}
