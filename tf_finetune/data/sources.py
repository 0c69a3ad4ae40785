"""Where examples come from: every source streamed into one Arrow table on disk."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pyarrow as pa

from tf_finetune.data import files, memory, text_folder, tfds_reader
from tf_finetune.data.findings import Findings
from tf_finetune.data.paths import at_home, expand
from tf_finetune.data.pictures import archive
from tf_finetune.data.pictures import folder as picture_folder
from tf_finetune.data.pictures.paths import with_paths
from tf_finetune.data.pictures.recognise import check_kind, with_column
from tf_finetune.data.rows import Columns, Part
from tf_finetune.data.rows_file import write
from tf_finetune.data.table import BAD_ROWS, Rows, no_rows, schema
from tf_finetune.data_checks import TOKENS
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

__all__ = ["BAD_ROWS", "check", "fraction", "read", "unsplit"]


def read(
    config: DataConfig, task: str, folder: Path, source: Any = None, *, labelled: bool = True
) -> tuple[pa.Table, Findings]:
    """Reads all examples into `folder/rows.arrow` and maps that file into memory.

    Args:
        config: where the examples are, and which columns count.
        task: as in `config.model.task`.
        folder: an existing folder for the table, and for pictures that are no files yet.
        source: data handed over in Python, or a path that replaces `config.path`.
        labelled: False, for prediction, reads the texts alone and keeps each row.

    Returns:
        A table with the columns `text`, `text_pair` (with `config.text_pair`), or in place
        of both `image`, a path, where the rows are pictures; for token classification `words`
        (list of strings, None of a text that is not divided);
        `label` (string, list of strings or double by the task; if labelled),
        `group` (with `config.group`; if labelled), `slice` (likewise), `split` ("train",
        "validation", "test", "retained", or "" where it is still to be split), `file`
        and `row` (1-based line of the file, or number of the row); and what is wrong
        with the rows that were left out. At most a few megabytes of texts are in memory at once.

    Raises:
        UserError: if the source, a column, a split or a value is not as configured.
    """
    config, columns, parts, to_cut = _resolved(config, task, source, labelled, folder)
    rows = Rows(columns, _split_names(config), task, config, train="" if to_cut else "train")
    types = schema(columns, task, soft=config.soft_labels)
    path = write(rows.of(parts), types, folder / "rows.arrow")
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all(), rows.findings


def check(config: DataConfig, source: Any = None, *, labelled: bool = True, task: str = "") -> None:
    """Reads the first row of each file: most mistakes show there, within milliseconds.

    Args:
        config: as in `read`.
        source: as in `read`; of data in memory the columns alone are looked at.
        labelled: as in `read`.
        task: as in `read`; empty for any that is not on words.

    Raises:
        UserError: if the source, a column or a first row is not as configured.
    """
    config, _, parts, _ = _resolved(config, task, source, labelled, None)
    for part in parts if config.path else ():
        if next(part.records, None) is None:
            raise no_rows(part.name)


def unsplit(config: DataConfig, path: str) -> DataConfig:
    """The settings that read all rows of `path`, and nothing else, as one set."""
    whole = DataConfig()
    return dataclasses.replace(
        config,
        path=path,
        tfds="",
        where="",
        split="",
        group="",
        slice="",
        validation=whole.validation,
        test=whole.test,
        retained="",
    )


def fraction(config: DataConfig, split: str) -> float | None:
    """The share that `config.data.validation` or `.test` asks to be cut off.

    Args:
        config: with the setting.
        split: "validation" or "test".

    Returns:
        The fraction; None where the setting names a file or a split. With
        `config.split` or `config.tfds`, "1" is the name of a split: folds have such.

    Raises:
        UserError: if it is a number that is no fraction, or empty.
    """
    value = getattr(config, split)
    try:
        share = float(value)
    except ValueError:
        if value:
            return None
        share = 0.0
    if value and not 0 < share < 1 and (config.split or config.tfds):
        return None
    if not 0 < share < 1:
        raise UserError(
            f'config.data.{split} is "{value}"; give a fraction above 0 and below 1 (0.1), a file, '
            "or with config.data.split or config.data.tfds the name of a split."
        )
    return share


def _resolved(
    config: DataConfig, task: str, source: Any, labelled: bool, folder: Path | None
) -> tuple[DataConfig, Columns, list[Part], bool]:
    """What is read in the end; last, whether a split is still to be cut from it.

    Without a folder, archives are looked at and not read.
    """
    if isinstance(source, str | Path):
        config, source = dataclasses.replace(config, path=str(source), tfds=""), None
    elif source is not None:
        config = dataclasses.replace(config, path="", tfds="")
    config = with_column(config, source)
    if labelled:
        check_kind(config)
    columns = Columns.of(config, labelled=labelled, words=task == TOKENS)
    parts = _main_parts(config, columns, source, labelled, folder)
    if not labelled or (folder is None and not parts):
        return config, columns, parts, True
    return config, columns, *_with_split_files(config, columns, parts, folder)


def _main_parts(
    config: DataConfig, columns: Columns, source: Any, labelled: bool, folder: Path | None
) -> list[Part]:
    if source is not None:
        parts = memory.parts(source, config, columns, labelled=labelled)
        return _located(parts, config, columns, Path(), folder)
    if config.tfds:
        if config.split:
            raise UserError(
                "config.data.split names a column; config.data.tfds has splits of its own. "
                "Leave config.data.split empty and name them in config.data.train and .validation."
            )
        splits = {"train": config.train}
        if labelled:
            others = {split: getattr(config, split) for split in ("validation", "test")}
            splits |= {s: name for s, name in others.items() if fraction(config, s) is None}
        parts = tfds_reader.parts(config, columns, splits)
        return _located(parts, config, columns, Path(), folder)
    if not config.path:
        raise UserError("No data: set config.data.path or config.data.tfds, or in Python `data`.")
    return _file_parts(config, config.path, "path", columns, "train", labelled, folder)


def _file_parts(
    config: DataConfig,
    value: str,
    option: str,
    columns: Columns,
    split: str,
    labelled: bool,
    folder: Path | None,
) -> list[Part]:
    parts = []
    read = picture_folder.parts if config.image else text_folder.parts
    for name, path in expand(value, f"config.data.{option}").items():
        if config.image and archive.is_archive(path):
            if folder is None:
                archive.check(name, path)
                continue
            path = archive.unpacked(name, path, folder)
        if path.is_dir():
            if "words" in columns.roles:
                raise UserError(
                    f'config.data.{option} "{name}" is a folder; words and tags are read from '
                    f"files, of which several may be named: {name.rstrip('/')}/*.conll"
                )
            some = read(name, path, config, columns, split=split, labelled=labelled)
        else:
            some = [Part(name, split, files.records(name, path, config, columns))]
        parts += _located(some, config, columns, path.parent if path.is_file() else Path(), folder)
    return parts


def _located(
    parts: list[Part], config: DataConfig, columns: Columns, base: Path, folder: Path | None
) -> list[Part]:
    """The parts with paths of files for pictures, if they are about pictures."""
    if not config.image:
        return parts
    at = columns.roles.index("image")
    return [with_paths(part, at, base, folder) for part in parts]


def _split_names(config: DataConfig) -> dict[str, str]:
    """What the split column's values mean: the configured names, by value."""
    others = [split for split in ("validation", "test") if config.split]
    named = {getattr(config, s): s for s in others if fraction(config, s) is None}
    return {config.train: "train"} | named


def _with_split_files(
    config: DataConfig, columns: Columns, parts: list[Part], folder: Path | None
) -> tuple[list[Part], bool]:
    """Adds the files given for a split; True if one is still to be cut from train."""
    given = {part.split for part in parts}
    named = config.split or config.tfds
    shares = []
    for split in ("validation", "test"):
        value = getattr(config, split)
        share = fraction(config, split)
        if split in given:
            if share is None and not config.tfds and value not in text_folder.SPLIT_FOLDERS[split]:
                raise UserError(
                    f'config.data.{split} is "{value}", but the data has a {split} part of its '
                    "own; leave the setting out, or remove that part."
                )
            if share is not None and value != getattr(type(config)(), split) and not named:
                raise UserError(
                    f"config.data.{split} is {value}, a share to cut from the training rows, but "
                    f"the data has a {split} part of its own; leave the setting out, or remove "
                    "that part."
                )
        elif share is not None:
            shares.append(share)
        elif not named:
            added = _file_parts(config, value, split, columns, split, True, folder)
            _check_new(added, parts, split)
            parts = parts + added
    if config.retained:
        parts = parts + _retained_parts(config, parts, folder)
    if sum(shares) >= 1:
        raise UserError(
            f"config.data.validation {config.validation} and config.data.test {config.test} "
            "leave nothing to train on; their sum must be below 1."
        )
    return parts, bool(shares)


def _retained_parts(config: DataConfig, parts: list[Part], folder: Path | None) -> list[Part]:
    """Rows from elsewhere: `where` and `split` say which of the other files' rows to use."""
    config = dataclasses.replace(config, where="", split="")
    columns = Columns.of(config, labelled=True)
    added = _file_parts(config, config.retained, "retained", columns, "retained", True, folder)
    _check_new(added, parts, "retained")
    return [dataclasses.replace(part, columns=columns) for part in added]


def _check_new(added: list[Part], parts: list[Part], split: str) -> None:
    before = {os.path.realpath(at_home(part.name)): part.split for part in parts}
    for part in added:
        if other := before.get(os.path.realpath(at_home(part.name))):
            raise UserError(
                f'config.data.{split}: "{part.name}" is also read as {other}; '
                "a file belongs to one split."
            )
