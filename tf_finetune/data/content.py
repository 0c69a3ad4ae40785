"""What the rows hold, texts or pictures, read once from end to end."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from tf_finetune.data import duplicates
from tf_finetune.data.duplicates import Scan
from tf_finetune.data.pictures import scan as pictures


def what(table: pa.Table) -> str:
    """`picture` or `text`: what a row of the table holds."""
    return "picture" if "image" in table.column_names else "text"


def scan(table: pa.Table, folder: Path | None = None) -> Scan:
    """Reads every text, or decodes every picture, once.

    Args:
        table: of texts or pictures.
        folder: where what was seen of pictures is kept for the next time; None keeps nothing.
    """
    return pictures.scan(table, folder) if what(table) == "picture" else duplicates.scan(table)
