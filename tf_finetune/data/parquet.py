"""A reader of Parquet files, a row at a time."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tf_finetune.data.rows import Columns, Record
from tf_finetune.errors import UserError

# Without a buffer of its own, a whole column of a row group is read at once.
_BUFFER = 2**20
# Of a gzipped file, whose columns are as a rule compressed already.
_MOST_GROWTH, _LEAST_LIMIT = 100, 2**30


def records(name: str, file: IO[bytes], columns: Columns, packed: int = 0) -> Iterator[Record]:
    """The rows of a Parquet file.

    Args:
        name: the file as messages and reports show it.
        file: opened.
        columns: to read.
        packed: the bytes of the gzip file that `file` unpacks; 0 where it is none.

    Raises:
        UserError: if it is no whole Parquet file, or lacks a column.
    """
    with contextlib.ExitStack() as stack:
        if packed:  # Parquet is read from its end
            unpacked = stack.enter_context(tempfile.TemporaryFile())
            _copy(name, file, unpacked, max(_LEAST_LIMIT, _MOST_GROWTH * packed))
            unpacked.seek(0)
            file = unpacked
        if not file.read(1):
            raise UserError(f'"{name}" is empty (0 bytes); give a file with rows.')
        try:
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f'"{name}" is not a Parquet file: {str(error).rstrip(".")}.') from None
        columns.find_in(f'"{name}"', table.schema_arrow.names)
        yield from _rows(name, table, columns)


def _values(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:  # of which no row can be told; of bytes each can
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise
        return column.cast(pa.large_binary()).to_pylist()


def _copy(name: str, file: IO[bytes], to: IO[bytes], limit: int) -> None:
    while piece := file.read(_BUFFER):
        limit -= len(piece)
        if limit < 0:
            raise UserError(
                f'"{name}" unpacks to more than {_MOST_GROWTH} times its size. If it is right, '
                "unpack it yourself and give the .parquet file."
            )
        to.write(piece)


def _rows(name: str, table: pq.ParquetFile, columns: Columns) -> Iterator[Record]:
    row = 0
    try:
        for batch in table.iter_batches(batch_size=1024, columns=list(set(columns.names))):
            values = [_values(batch.column(column)) for column in columns.names]
            for record in zip(*values, strict=True):
                row += 1
                yield name, row, record
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f'"{name}" is damaged after row {row}: {error}.') from None
