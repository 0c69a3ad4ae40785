"""Readers of data handed over in Python: arrays, pandas and tf.data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tf_finetune.data.rows import Columns, Part, Record, check_unique, quoted
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

SPLITS = ("train", "validation", "test")
_CHUNK = 1024
_ALLOWED = (
    "a pandas DataFrame, a dict of columns, a tuple (texts, labels) or (pictures, labels), a "
    "finite tf.data.Dataset of (text, label) or of dicts, or "
    '{"train": ..., "validation": ..., "test": ...} of these'
)


def parts(source: Any, config: DataConfig, columns: Columns, *, labelled: bool) -> list[Part]:
    """The records of data that stands in memory.

    Args:
        source: a DataFrame, a dict of columns, (texts, labels), a tf.data.Dataset,
            or a dict of those for "train", "validation" and "test".
        config: names the columns.
        columns: to read.
        labelled: False also takes bare texts, or (texts, second texts).

    Raises:
        UserError: if the source is none of these, lacks a column, has columns of
            unequal length or never ends.
    """
    if not (isinstance(source, Mapping) and "train" in source and _first(config) not in source):
        return [_part(source, "train", "data", config, columns, labelled)]
    if unknown := [name for name in source if name not in SPLITS]:
        raise UserError(f"data has the splits {quoted(unknown)}; allowed: {', '.join(SPLITS)}.")
    return [
        _part(one, split, f'data["{split}"]', config, columns, labelled)
        for split, one in source.items()
    ]


def _part(
    source: Any, split: str, name: str, config: DataConfig, columns: Columns, labelled: bool
) -> Part:
    if hasattr(source, "element_spec") and hasattr(source, "as_numpy_iterator"):
        return Part(name, split, _dataset(source, name, config, columns, labelled))
    if _is_frame(source):
        check_unique(name, [str(column) for column in source.columns])
        table = {str(column): source[column] for column in source.columns}
    elif isinstance(source, Mapping | tuple) or (not labelled and _is_column(source)):
        table = _named(source, config, labelled, name)
    else:
        raise UserError(f"{name} is a {type(source).__name__}; allowed: {_ALLOWED}.")
    columns.find_in(name, list(table))
    wanted = {column: _column(table[column], column, name, config) for column in columns.names}
    lengths = {column: len(values) for column, values in wanted.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f'"{column}" {length:,}' for column, length in lengths.items())
        raise UserError(f"{name} has columns of unequal length: {found}.")
    return Part(name, split, _records(wanted, name, 0, config, columns))


def _first(config: DataConfig) -> str:
    """The column of texts, or of pictures."""
    return config.image or config.text


def _is_frame(source: Any) -> bool:
    pandas = sys.modules.get("pandas")  # who has a DataFrame has imported it
    return pandas is not None and isinstance(source, pandas.DataFrame)


def _is_column(values: Any) -> bool:
    return not isinstance(values, str | bytes | Mapping) and hasattr(values, "__len__")


def _named(element: Any, config: DataConfig, labelled: bool, name: str) -> dict[str, Any]:
    """The columns of a dict, of (text, label) or, without labels, of bare texts."""
    if isinstance(element, Mapping):
        return {str(column): values for column, values in element.items()}
    first = element[0] if isinstance(element, tuple) and element else None
    if not labelled and (first is None or isinstance(first, str)):
        return {_first(config): element}
    if not isinstance(element, tuple) or len(element) != 2:
        found = f"{len(element)} values" if isinstance(element, tuple) else "no label"
        raise UserError(f"{name} gives {found} instead of (text, label). Allowed: {_ALLOWED}.")
    inputs, second = element
    pair = bool(config.text_pair)
    if not labelled and pair and not isinstance(inputs, tuple | Mapping):
        return {config.text: inputs, config.text_pair: second}
    if isinstance(inputs, Mapping):
        return _named(inputs, config, labelled, name) | {config.label: second}
    if pair and isinstance(inputs, tuple) and len(inputs) == 2:
        named = {config.text: inputs[0], config.text_pair: inputs[1]}
    else:
        named = {_first(config): inputs}
    return named | {config.label: second}


def _column(values: Any, column: str, name: str, config: DataConfig) -> Any:
    """Something that can be cut into chunks: a Series, an array, a list."""
    if hasattr(values, "iloc") and values.ndim == 2:
        return _of_frame(values, column, name, config)
    if not _is_column(values):
        kind = type(values).__name__
        raise UserError(f'{name}: the column "{column}" is a {kind}; it must be a list or array.')
    if hasattr(values, "iloc") or isinstance(values, list | tuple):
        return values
    array = np.asarray(values)
    if array.ndim == 0:
        raise UserError(f'{name}: the column "{column}" is one value; it must be an array.')
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _of_frame(frame: Any, column: str, name: str, config: DataConfig) -> Any:
    """The column that a whole frame stands for: its only one, or the labels of its columns."""
    names = [str(one) for one in frame.columns]
    if len(names) == 1:
        return frame.iloc[:, 0]
    values = frame.to_numpy()
    if column != config.label:
        raise UserError(
            f'{name}: "{column}" is a frame of {len(names)} columns ({quoted(names)}); give one.'
        )
    if config.soft_labels:
        return [dict(zip(names, row, strict=True)) for row in values.tolist()]
    if frame.isna().any(axis=None) or not np.isin(values.astype(object), (0, 1)).all():
        raise UserError(
            f"{name}: the labels are a frame of {len(names)} columns ({quoted(names)}), whose "
            "values must all be 0 or 1; or give one column."
        )
    return [[one for one, on in zip(names, row, strict=True) if on] for row in values.tolist()]


def _records(
    table: Mapping[str, Any], name: str, before: int, config: DataConfig, columns: Columns
) -> Iterator[Record]:
    """The rows of equally long columns, numbered from `before` + 1."""
    length = len(table[columns.names[0]])
    for start in range(0, length, _CHUNK):
        chunk = [
            _values(table[column], slice(start, start + _CHUNK), column, name, config)
            for column in columns.names
        ]
        for row, record in enumerate(zip(*chunk, strict=True), start=before + start + 1):
            yield name, row, record


def _values(values: Any, part: slice, column: str, name: str, config: DataConfig) -> list[Any]:
    """Plain Python values: no NumPy scalars, and None for what pandas calls missing."""
    if hasattr(values, "iloc"):
        piece = values.iloc[part]
        return [_plain(value) for value in piece.astype(object).where(piece.notna(), None)]
    if column == config.image:
        return list(values[part])
    if isinstance(values, np.ndarray) and values.ndim > 1:
        of_row = _shares if config.soft_labels and column == config.label else _switched_on
        return [of_row(row, column, name, config) for row in values[part]]
    return [_plain(value) for value in values[part]]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value


def _switched_on(row: np.ndarray, column: str, name: str, config: DataConfig) -> list[str]:
    """The labels that a row of zeros and ones switches on."""
    if row.ndim != 1 or column != config.label or not np.isin(row, (0, 1)).all():
        raise UserError(
            f'{name}: the column "{column}" has {row.ndim + 1} dimensions; a column has one, '
            "or for labels two: zeros and ones, a column for each class."
        )
    names = _names_of_columns(row, name, config)
    return [names[index] for index in np.flatnonzero(row)]


def _shares(row: np.ndarray, column: str, name: str, config: DataConfig) -> dict[str, Any]:
    """The shares of classes in a row of soft labels."""
    if row.ndim != 1:
        raise UserError(
            f'{name}: the column "{column}" has {row.ndim + 1} dimensions; soft labels have two: '
            "a column of shares for each class."
        )
    return dict(zip(_names_of_columns(row, name, config), row.tolist(), strict=True))


def _names_of_columns(row: np.ndarray, name: str, config: DataConfig) -> tuple[str, ...]:
    names = config.classes or tuple(str(index) for index in range(len(row)))
    if len(names) != len(row):
        raise UserError(
            f"{name}: the labels have {len(row)} columns, config.data.classes {len(names)} names."
        )
    return names


def _dataset(
    dataset: Any, name: str, config: DataConfig, columns: Columns, labelled: bool
) -> Iterator[Record]:
    """One pass over a tf.data.Dataset, batched or not."""
    if int(dataset.cardinality()) == -1:
        raise UserError(f"{name} is a tf.data.Dataset that never ends; remove its repeat().")
    spec = _named(dataset.element_spec, config, labelled, name)
    columns.find_in(name, list(spec))
    for column in columns.names[: 2 if config.text_pair else 1]:
        if spec[column].dtype.name != "string" and not config.image:
            raise UserError(
                f'{name}: the column "{column}" is {spec[column].dtype.name}; it must be text '
                "(tf.string), not token ids."
            )
    first = spec[columns.names[0]]
    # A picture alone has height, width and channels, or is encoded in one string.
    # So has one in grey, but for the channels.
    rank, grey = first.shape.rank, bool(first.shape.rank) and first.shape[-1] not in (None, 1, 3, 4)
    batched = rank == 1 if first.dtype.name == "string" else rank == 4 or (rank == 3 and grey)
    seen = 0
    for element in dataset.as_numpy_iterator():
        named = _named(element, config, labelled, name)
        table = {column: _batch(named[column], spec[column], batched) for column in columns.names}
        yield from _records(table, name, seen, config, columns)
        seen += len(table[columns.names[0]])


def _batch(value: Any, spec: Any, batched: bool) -> Any:
    """A column of one batch; an example alone is a batch of one."""
    if not batched:
        # A vector of fixed length is zeros and ones, another one lists labels.
        fixed = np.ndim(value) == 1 and spec.shape[0] is not None
        if fixed and spec.shape[0] == 1:  # as of a batch
            return np.asarray(value)
        return np.asarray(value)[None] if fixed else [value]
    if hasattr(spec, "ragged_rank"):
        return list(value)
    return value[:, 0] if np.ndim(value) == 2 and value.shape[1] == 1 else value
