"""Readers of CSV, TSV, JSON Lines, Parquet and CoNLL files, a row at a time."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from tf_finetune.data import conll, parquet
from tf_finetune.data.rows import Columns, Record
from tf_finetune.data.values import shown
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_HEAD = 65536
# An unclosed quote swallows the rest of a file; this is where we stop it.
_MOST_FIELD = 2**26
_MOST_UNSEEN = 1000
_SELDOM = ("slice", "where")  # columns that may begin later
_SIGNATURES = {
    b"PK\x03\x04": "a zip or Excel file; save the sheet as CSV",
    b"\x1f\x8b": "gzipped; let its name end in .gz",
    b"PAR1": "a Parquet file; let its name end in .parquet",
    b"ARROW1": "an Arrow file; save it as Parquet",
}


def extension(path: Path) -> str:
    """The format that the name tells, `.gz` left aside: `a.CSV.gz` gives `.csv`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def records(name: str, path: Path, config: DataConfig, columns: Columns) -> Iterator[Record]:
    """The rows of one table file.

    Args:
        name: the file as messages and reports show it.
        path: where it stands.
        config: for `delimiter` and `encoding`.
        columns: to read.

    Raises:
        UserError: if the file is not what its name says, or lacks a column.
    """
    kind = extension(path)
    of_words = "words" in columns.roles
    if kind not in EXTENSIONS and not (of_words and kind in conll.EXTENSIONS):
        hint = " Save it as one JSON object a line, named .jsonl." if kind == ".json" else ""
        raise UserError(
            f'"{name}" has the unknown extension "{kind}"; allowed: '
            f"{', '.join(dict.fromkeys((*conll.EXTENSIONS * of_words, *EXTENSIONS)))}, each also "
            f"with .gz.{hint}"
        )
    try:
        if of_words and kind in conll.EXTENSIONS:
            with _open_text(name, path, config.encoding) as file:
                yield from conll.sentences(name, file, config.delimiter, columns)
        elif kind == ".parquet":
            with _raw(path) as file:
                packed = path.stat().st_size if path.suffix.lower() == ".gz" else 0
                yield from parquet.records(name, file, columns, packed)
        elif kind in (".csv", ".tsv"):
            yield from _csv(name, path, config, columns, "\t" if kind == ".tsv" else ",")
        else:
            yield from _jsonl(name, path, config, columns)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'"{name}" is not a whole gzip file: {error}.') from None
    except UnicodeError as error:
        raise UserError(
            f'"{name}" is not text in {config.encoding}: {error}. Set --config.data.encoding.'
        ) from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f'"{name}" cannot be read: {error.strerror}.') from None


def _raw(path: Path) -> IO[bytes]:
    if path.suffix.lower() == ".gz":
        return cast(IO[bytes], gzip.GzipFile(path))
    return path.open("rb")


def codec_of(encoding: str) -> str:
    """The Python name of `config.data.encoding`; "utf-8" also drops a byte order mark.

    Raises:
        UserError: if Python does not know it.
    """
    try:
        found = codecs.lookup(encoding)
        if not found._is_text_encoding:
            raise LookupError
        name = found.name
    except LookupError:
        raise UserError(
            f'config.data.encoding is "{encoding}", which Python does not know; '
            "well-known ones: utf-8, utf-16, latin-1, cp1252."
        ) from None
    return "utf-8-sig" if name == "utf-8" else name


@contextlib.contextmanager
def _open_text(name: str, path: Path, encoding: str) -> Iterator[IO[str]]:
    """Opens a text file, gzipped or not; bytes that are no text become surrogates."""
    codec = codec_of(encoding)
    with _raw(path) as file:
        _check_head(name, file.read(_HEAD), codec)
    with _raw(path) as file:
        yield io.TextIOWrapper(file, encoding=codec, errors="surrogateescape", newline="")


def _lines(name: str, file: IO[str]) -> Iterator[str]:
    """The lines of a file; one without end is not read whole."""
    number = 0
    while line := file.readline(_MOST_FIELD):
        number += 1
        if len(line) >= _MOST_FIELD and not line.endswith(("\n", "\r")):
            raise UserError(
                f"{name}:{number}: the line is longer than {_MOST_FIELD:,} characters. Each line "
                "must be one row; a JSON array is to be written as one object a line."
            )
        yield line


def _check_head(name: str, head: bytes, codec: str) -> None:
    if not head:
        raise UserError(f'"{name}" is empty (0 bytes); give a file with rows.')
    for signature, what in _SIGNATURES.items():
        if head.startswith(signature):
            raise UserError(f'"{name}" is not text but {what}.')
    if codec.startswith(("utf-16", "utf-32")):
        return
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f'"{name}" is UTF-16 text; set --config.data.encoding=utf-16.')
    decoded = head.decode(codec, "replace")
    if b"\0" in head or decoded.count("\ufffd") > len(decoded) / 5:
        raise UserError(
            f'"{name}" is not text in {codec.removesuffix("-sig")}: it is a binary file, or in '
            "another encoding; for that set --config.data.encoding (cp1252, utf-16, ...)."
        )


def _csv(
    name: str, path: Path, config: DataConfig, columns: Columns, default: str
) -> Iterator[Record]:
    delimiter = config.delimiter or default
    with _open_text(name, path, config.encoding) as file:
        lines = _csv_lines(name, file, delimiter)
        _, header = next(lines, (1, []))
        positions = _csv_positions(name, header, columns, delimiter)
        for line, row in lines:
            if len(row) != len(header):
                raise UserError(
                    f"{name}:{line}: found {len(row)} fields, expected {len(header)} as in the "
                    f"header. A field that holds {_visible(delimiter)} must stand in double quotes."
                )
            if delimiter == "\t" and any("\t" in field and "\n" in field for field in row):
                raise UserError(
                    f"{name}:{line}: a field in double quotes runs over several lines and holds "
                    "tabs, as if it had swallowed rows. A field that begins with a quote must "
                    'stand in double quotes, its own quotes twice ("").'
                )
            yield name, line, [row[position] for position in positions]


def _csv_lines(name: str, file: IO[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the line of the file on which it starts."""
    csv.field_size_limit(max(csv.field_size_limit(), _MOST_FIELD))
    reader = csv.reader(_lines(name, file), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{name}:{line}: the row that starts here is not CSV: {error}. Inside a field in "
            'double quotes, a quote is written twice (""), and the last one closes the field.'
        ) from None


def _csv_positions(name: str, header: list[str], columns: Columns, delimiter: str) -> list[int]:
    other = next((sign for sign in ";\t|," if sign != delimiter and sign in "".join(header)), "")
    if len(header) == 1 and other and not set(columns.names) <= set(header):
        option = "$'\\t'" if other == "\t" else f"'{other}'"
        raise UserError(
            f'"{name}" has one column, {shown(header[0])}: it seems that {_visible(other)} stands '
            f"between its columns. Set --config.data.delimiter={option}."
        )
    return columns.find_in(f'"{name}"', header)


def _visible(sign: str) -> str:
    return "a tab" if sign == "\t" else f'"{sign}"'


def _jsonl(name: str, path: Path, config: DataConfig, columns: Columns) -> Iterator[Record]:
    unseen, keys = set(columns.names), dict[str, None]()
    with _open_text(name, path, config.encoding) as file:
        for number, line in enumerate(_lines(name, file), start=1):
            if not line.strip():
                continue
            item = _json_object(name, number, line)
            if unseen:  # some writers leave out keys that are null
                unseen -= item.keys()
                keys |= dict.fromkeys(item)
                if number >= _MOST_UNSEEN:
                    early = f", in its first {_MOST_UNSEEN:,} lines,"
                    _check_seen(name, columns, unseen, keys, early, but=_SELDOM)
            yield name, number, [item.get(column) for column in columns.names]
    if keys:
        _check_seen(name, columns, unseen, keys)


def _check_seen(
    name: str,
    columns: Columns,
    unseen: set[str],
    keys: dict[str, None],
    where: str = "",
    but: tuple[str, ...] = (),
) -> None:
    for role, column in zip(columns.roles, columns.names, strict=True):
        if column in unseen and role not in but:
            raise columns.missing(f'"{name}"{where}', column, keys)


def _json_object(name: str, number: int, line: str) -> dict[str, Any]:
    try:
        item = json.loads(line.rstrip())
    except (ValueError, RecursionError) as error:
        # The error's own line number is always 1: each line is parsed alone.
        at = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = getattr(error, "msg", str(error)) + at
        raise UserError(
            f"{name}:{number}: not JSON: {reason}. Each line must be one whole object, such as "
            '{"text": "...", "label": "..."}.'
        ) from None
    if not isinstance(item, dict):
        raise UserError(
            f"{name}:{number}: found {shown(item)}; each line must be one object, such as "
            '{"text": "...", "label": "..."}.'
        )
    return item
