"""The table of rows on the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tf_finetune.errors import UserError

_BATCH_ROWS = 4096
_BATCH_CHARACTERS = 1_000_000
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR)


def write(rows: Iterable[tuple[Any, ...]], table_schema: pa.Schema, path: Path) -> Path:
    """Writes rows as an Arrow file, a batch at a time; it appears when it is whole.

    Args:
        rows: values in the order of the schema.
        table_schema: of the table.
        path: of the file.

    Returns:
        The path.

    Raises:
        UserError: if the folder cannot be written or is full.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(partial), "w") as sink, pa.ipc.new_file(sink, table_schema) as writer:
            for batch in _batches(rows):
                values = zip(*batch, strict=True)
                arrays = [pa.array(v, t) for v, t in zip(values, table_schema.types, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema=table_schema))
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise UserError(
            f'Cannot write "{path}" ({os.strerror(error.errno)}); it takes about as much room '
            "as the data. Make room there, or choose another folder."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def taken(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """As `table.take`, which first copies all batches of a column into one."""
    batches = table.to_batches()
    ends = np.cumsum([len(batch) for batch in batches])
    which = np.searchsorted(ends, rows, side="right")
    order, parts = np.argsort(which, kind="stable"), []
    for some in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
        if len(some):
            batch, end = batches[which[some[0]]], ends[which[some[0]]]
            parts.append(batch.take(pa.array(rows[some] - (end - len(batch)))))
    found = pa.Table.from_batches(parts, table.schema)
    return found if (np.diff(which) >= 0).all() else found.take(pa.array(np.argsort(order)))


def _batches(rows: Iterable[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """Runs of rows, bounded in number and in characters; the first column is text."""
    batch: list[tuple[Any, ...]] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row[0])
        if len(batch) == _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
