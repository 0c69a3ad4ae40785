"""What the rows hold, texts or pictures, read once from end to end."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from tf_finetune.data import checks, duplicates
from tf_finetune.data.duplicates import Scan
from tf_finetune.data.findings import Findings
from tf_finetune.data.pictures import scan as pictures


def what(table: pa.Table) -> str:
    """`picture` or `text`: what a row of the table holds."""
    return "picture" if "image" in table.column_names else "text"


def without_unusable(table: pa.Table, findings: Findings, folder: Path | None = None) -> pa.Table:
    """The rows whose pictures can be read; those of others are found. Texts are as they are.

    Args:
        table: of texts or pictures.
        findings: what to add to.
        folder: as in `scan`.
    """
    if what(table) != "picture":
        return table
    unusable = find_unusable(table, scan(table, folder), findings)
    return table.take(pa.array(np.setdiff1d(np.arange(len(table)), unusable)))


def find_unusable(table: pa.Table, seen: Scan, findings: Findings) -> list[int]:
    """Adds a finding for each row that cannot be read; these rows."""
    for row, kind in seen.unusable.items():
        findings.add(kind, checks.place(table, row), checks.content(table, row), row=row)
    return [*seen.unusable]


def keys_of(column: pa.ChunkedArray) -> np.ndarray:
    """(n,) int64, equal for equal texts of a column, as they stand."""
    found = np.empty(len(column), np.int64)
    for row, one in enumerate(column):
        raw = hashlib.blake2b(one.as_py().encode(), digest_size=8).digest()
        found[row] = int.from_bytes(raw, "little", signed=True)
    return found


def scan(table: pa.Table, folder: Path | None = None) -> Scan:
    """Reads every text, or decodes every picture, once.

    Args:
        table: of texts or pictures.
        folder: where what was seen of pictures is kept for the next time; None keeps nothing.
    """
    return pictures.scan(table, folder) if what(table) == "picture" else duplicates.scan(table)
