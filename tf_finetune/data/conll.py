"""Readers of CoNLL files: a word and its tag a line, a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tf_finetune.data.rows import Columns, Record
from tf_finetune.data.values import shown
from tf_finetune.errors import UserError

# What tables of words and tags end in; `.tsv` and `.txt` are others for other tasks.
EXTENSIONS = (".conll", ".tsv", ".txt")
# The group of a sentence that stands in the file itself.
DOCUMENT = "document"
_GAP = re.compile(r"[ \t]+")
_DOCUMENT_START = "-DOCSTART-"
_ENDS = "\r\n"


def sentences(
    name: str, lines: Iterable[str], delimiter: str, columns: Columns
) -> Iterator[Record]:
    """The sentences of a file, each with the line on which it starts.

    The first column of a line is the word, the last one its tag; columns are separated by
    tabs where a line has any, else by spaces. Lines that begin with `-DOCSTART-` are no
    words: they number the documents, by which rows can be grouped.

    Args:
        name: the file as messages show it.
        lines: of the file.
        delimiter: between columns; empty finds it.
        columns: to read; without labels a line may be a word alone.

    Raises:
        UserError: if a line has no tag, or a column is asked for that such files lack.
    """
    for role, column in zip(columns.roles, columns.names, strict=True):
        if role not in ("words", "label") and (role, column) != ("group", DOCUMENT):
            raise UserError(
                f'config.data.{role} is "{column}", but "{name}" has words and tags alone; leave '
                f'it out (config.data.group may be "{DOCUMENT}": the {_DOCUMENT_START} lines), or '
                "give the rows as .jsonl or .parquet."
            )
    labelled, widths = "label" in columns.roles, (0, 0)
    words, tags = list[str](), list[str]()
    start, document = 0, 0

    def record() -> Record:
        values: dict[str, Any] = {"words": words, "label": tags, "group": f"{name}:{document}"}
        return name, start, [values[role] for role in columns.roles]

    for number, line in enumerate(lines, start=1):
        parts = _parts(line, delimiter)
        cells = [part for part in parts if part]
        if not cells or cells[0] == _DOCUMENT_START:
            if words:
                yield record()
                words, tags = [], []
            document += bool(cells)
            continue
        widths = widths if any(widths) else (len(parts), len(cells))
        # Else another column would be taken for the word or its tag.
        whole = len(parts) == widths[0] and parts[0] and parts[-1]
        if labelled and len(cells) > 1 and not (whole or len(cells) == widths[1]):
            raise UserError(
                f"{name}:{number}: found {shown(line.strip(_ENDS))}, of {len(cells)} columns; each "
                f"line has {widths[1]}, as the first one, with a word in the first and a tag in "
                "the last."
            )
        if labelled and len(cells) < 2:
            raise UserError(
                f"{name}:{number}: found {shown(line.strip())}, one column; a line holds a word "
                "first and its tag last, with tabs or spaces between, and a blank line ends a "
                "sentence."
            )
        start = start if words else number
        words.append(cells[0])
        tags.append(cells[-1])
    if words:
        yield record()


def _parts(line: str, delimiter: str) -> list[str]:
    """The columns of a line, some perhaps empty; a word may hold spaces between tabs."""
    if not line.strip():
        return []
    line = line.strip(_ENDS)
    separator = delimiter or ("\t" if "\t" in line else "")
    # A no-break space is part of a word.
    if separator:
        return [part.strip(" \t\r\n") for part in line.split(separator)]
    return [part for part in _GAP.split(line) if part]
