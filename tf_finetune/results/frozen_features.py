"""The untouched backbone's features of training and test rows, kept for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.data.pipeline import Store
from tf_finetune.whole import written_whole

FILE = "features.npz"
# Of each split: for more, the audit of labels takes minutes and the file gigabytes.
MOST_ROWS = 50_000


def keep(folder: Path, store: Store, splits: dict[str, np.ndarray], seed: int) -> None:
    """Writes the features of the training and the test rows, or of some where they are many.

    Args:
        folder: of the run's cache.
        store: gives the features of rows.
        splits: the rows of each split.
        seed: of the choice.
    """
    chosen = {name: _some(splits[name], seed) for name in ("train", "test")}
    arrays: dict[str, Any] = {name: np.asarray(store.batch(r)) for name, r in chosen.items()}
    arrays |= {f"{name}_rows": rows for name, rows in chosen.items()}
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(array.nbytes for array in arrays.values())
    with written_whole(folder / FILE, needed=needed) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def kept(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By `train` and `test` the rows, ascending, and their features; empty if none were kept."""
    if not (folder / FILE).exists():
        return {}
    with np.load(folder / FILE) as found:
        return {name: (found[f"{name}_rows"], found[name]) for name in ("train", "test")}


def _some(rows: np.ndarray, seed: int) -> np.ndarray:
    if len(rows) <= MOST_ROWS:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, MOST_ROWS, replace=False))
