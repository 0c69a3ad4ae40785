"""What the rows hold, texts or pictures, read once from end to end."""

from __future__ import annotations

import pyarrow as pa

from tf_finetune.data import duplicates
from tf_finetune.data.duplicates import Scan
from tf_finetune.data.pictures import scan as pictures


def what(table: pa.Table) -> str:
    """`picture` or `text`: what a row of the table holds."""
    return "picture" if "image" in table.column_names else "text"


def scan(table: pa.Table) -> Scan:
    """Reads every text, or decodes every picture, once."""
    return pictures.scan(table) if what(table) == "picture" else duplicates.scan(table)
