"""Whether two runs ended the same, bit for bit."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tf_finetune.checkpoints.files import CheckpointFiles

# What differs between two runs that are the same.
_TIMES = {
    *("seconds", "train_seconds", "first_step_seconds", "examples_per_second"),
    *("peak_memory_bytes", "resumed", "test_readings", "command", "export", "exports", "workdir"),
}


def without_times(value: Any) -> Any:
    """A card, row or facts without what two equal runs do not have in common."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in _TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def end_of(run: Path) -> dict[str, Any]:
    """All that a run came to: its card, history, last checkpoint and the model's weights."""
    found = CheckpointFiles(run / "checkpoints").newest(lambda line: None)
    assert found is not None
    with zipfile.ZipFile(run / "model.keras") as parts:
        weights = _values(parts.read("model.weights.h5"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "card": without_times(json.loads((run / "metrics.json").read_text())),
        "history": without_times(rows),
        "facts": without_times(found.facts),
        **{f"checkpoint: {name}": array for name, array in found.arrays.items()},
        **{f"model.keras: {name}": array for name, array in weights.items()},
    }


def differences(one: Path, other: Path) -> list[str]:
    """What two runs do not have in common, by name."""
    first, second = end_of(one), end_of(other)
    missing = sorted(first.keys() ^ second.keys())
    return missing + [k for k in first.keys() & second.keys() if not _same(first[k], second[k])]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def _values(content: bytes) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item)

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(visit)
    return found
