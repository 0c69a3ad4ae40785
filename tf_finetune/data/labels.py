"""Labels as numbers, and mistakes that only the whole label column shows."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tf_finetune.data_checks import LANGUAGE
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

_MANY = 100
_FEW_ROWS = 2
_WHOLE = re.compile(r"[+-]?\d+")
_DECIMAL = re.compile(r"([+-]?\d+)\.0+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def class_names(table: pa.Table, config: DataConfig) -> tuple[str, ...]:
    """The classes in the order of `config.data.classes`, else those of the training rows.

    Whole numbers are sorted by value, anything else as text.

    Args:
        table: has `label` (string or list of strings) and `split`; of soft labels `shares`,
            whose classes count however small their shares are.
        config: gives the classes, if the user did.

    Raises:
        UserError: if there are too many classes with too few rows each.
    """
    if config.classes:
        return config.classes
    column = "shares" if "shares" in table.column_names else "label"
    # The texts stay on the disk.
    ours = table.select([column]).filter(pc.is_in(table["split"], pa.array(["", "train"])))
    counts = pc.value_counts(_flat(ours[column]))
    rows = dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True))
    _refuse_a_column_of_values(rows, config)
    for name in sorted(rows):
        found = _DECIMAL.fullmatch(name)
        if found and found[1] in rows:
            raise UserError(
                f'config.data.label: column "{config.label}" has both "{found[1]}" and "{name}", '
                "one number written in two ways, which would be two classes. Write it in one way, "
                "or list the classes in config.data.classes."
            )
    _refuse_spellings(rows, config)
    whole = all(_WHOLE.fullmatch(name) for name in rows)
    return tuple(sorted(rows, key=(lambda name: (int(name), name)) if whole else None))


def encode(table: pa.Table, task: str, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The labels as the loss wants them.

    Args:
        table: has `label`; of soft labels, whose largest shares count, `shares`.
        task: `classification`, `multi_label`, `regression` or `causal_lm`.
        names: the classes; empty for regression and causal_lm.

    Returns:
        labels, (n,) int32 with -1 for an unknown one, (n, k) float32 multi-hot or
        (n,) float32, of responses how many words they have; and (n,) bool, whether every
        label of the row is known.
    """
    column = table["label"]
    if task == LANGUAGE:
        words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(column)))
        return words.to_numpy().astype(np.float32), np.ones(table.num_rows, bool)
    if task == "regression":
        return column.to_numpy().astype(np.float32), np.ones(table.num_rows, bool)
    if "shares" in table.column_names:
        shares, known = encode_shares(table, names)
        return with_most(shares, known), known
    found = pc.index_in(_flat(column), value_set=pa.array(names, pa.string()))
    codes = pc.fill_null(found, -1).to_numpy().astype(np.int32)
    if task == "classification":
        return codes, codes >= 0
    row = np.repeat(np.arange(table.num_rows), pc.list_value_length(column).to_numpy())
    known = np.ones(table.num_rows, bool)
    known[row[codes < 0]] = False
    labels = np.zeros((table.num_rows, len(names)), np.float32)
    labels[row[codes >= 0], codes[codes >= 0]] = 1
    return labels, known


def encode_shares(table: pa.Table, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Soft labels: the shares of classes (n, k) float32, and (n,) whether all are known."""
    shares = np.zeros((table.num_rows, len(names)), np.float32)
    known = np.ones(table.num_rows, bool)
    places = {name: place for place, name in enumerate(names)}
    for row, of_row in enumerate(table["shares"].to_pylist()):
        for name, share in of_row:
            if name in places:
                shares[row, places[name]] = share
            else:
                known[row] = False
    return shares, known


def with_most(shares: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The class (n,) int32 with the largest share of each row; -1 where one is not known."""
    return np.where(known, shares.argmax(axis=1), -1).astype(np.int32)


def told(table: pa.Table, row: int) -> str:
    """A row's label for people; of several the classes."""
    if "shares" in table.column_names:
        return ", ".join(name for name, _ in table["shares"][row].as_py())
    return in_words(table["label"][row].as_py())


def in_words(label: str | float | list[str]) -> str:
    """What stands in the column of labels, for people."""
    return ", ".join(label) if isinstance(label, list) else str(label)


def classes_of(labels: np.ndarray) -> np.ndarray:
    """The class (n,) of each row; labels: int classes, or shares of classes (n, k)."""
    return labels.argmax(axis=1) if labels.ndim == 2 else labels


def refuse_one_value(labels: np.ndarray, names: tuple[str, ...], config: DataConfig) -> None:
    """Raises `UserError` if all training rows have the same label: nothing could be learnt.

    Args:
        labels: of the training rows, as `encode` gives them.
        names: the classes; empty for regression.
        config: names the label column in the message.
    """
    if not len(labels) or (labels != labels[0]).any():
        return
    if labels.ndim == 2:
        value = ", ".join(name for name, on in zip(names, labels[0], strict=True) if on) or "none"
    else:
        value = names[labels[0]] if names else f"{labels[0]:g}"
    raise UserError(
        f'config.data.label: all {len(labels):,} training rows have the same label, "{value}" '
        f'(column "{config.label}"), so there is nothing to learn. '
        "Choose another label column, or add rows with other labels"
        + (f", or raise config.data.limit ({config.limit})." if config.limit else ".")
    )


def refuse_small_classes(
    labels: np.ndarray, names: tuple[str, ...], config: DataConfig, found: str = ""
) -> None:
    """Raises `UserError` if a class has fewer training rows than `config.data.min_per_class`.

    Args:
        labels: of the training rows, int classes, multi-hot or shares.
        names: the classes.
        config: has the least number of rows.
        found: what was found wrong with rows, which may be why so few are left.
    """
    counts = count_classes(labels, len(names))
    small = [
        f'"{name}" has {count}'
        for name, count in zip(names, counts.tolist(), strict=True)
        if count < config.min_per_class
    ]
    if not small:
        return
    more = f" and {len(small) - 5} more classes" if len(small) > 5 else ""
    why = f" (found in the data: {found})" if found else ""
    raise UserError(
        f"config.data.min_per_class is {config.min_per_class}, but of training rows class "
        f"{', '.join(small[:5])}{more}{why}. Add rows, lower it, or leave such classes out: list "
        "the others in config.data.classes and pass --config.data.bad_rows=drop."
    )


def count_classes(labels: np.ndarray, classes: int) -> np.ndarray:
    """How many rows each class has, (k,) int64; labels: int classes, multi-hot or shares."""
    if labels.ndim == 2:
        return np.count_nonzero(labels, axis=0).astype(np.int64)
    return np.bincount(labels, minlength=classes)


def _flat(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Every class that a row names, of shares too; rows are not slices of others."""
    if pa.types.is_map(labels.type):
        return pa.chunked_array([chunk.keys for chunk in labels.chunks], pa.string())
    return pc.list_flatten(labels) if pa.types.is_list(labels.type) else labels


def _refuse_spellings(rows: dict[str, int], config: DataConfig) -> None:
    """One class written in two ways would be two classes."""
    written: dict[str, str] = {}
    for name in sorted(rows):
        first = written.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if first != name:
            raise UserError(
                f'config.data.label: column "{config.label}" has both "{first}" ({rows[first]:,} '
                f'rows) and "{name}" ({rows[name]:,}), which differ in case or Unicode form only. '
                "Write them in one way; or, if they are different classes, list all classes in "
                "config.data.classes."
            )


def _refuse_a_column_of_values(rows: dict[str, int], config: DataConfig) -> None:
    """Many labels that hardly ever recur are a number, an identifier or free text."""
    rare = sum(count <= _FEW_ROWS for count in rows.values())
    if len(rows) <= _MANY or rare <= len(rows) / 2:
        return
    start = (
        f'config.data.label: column "{config.label}" has {len(rows):,} different labels, '
        f"{rare:,} of them on at most {_FEW_ROWS} rows, which "
    )
    if all(_NUMBER.fullmatch(name) for name in rows):
        raise UserError(
            f"{start}looks like a numeric target, not classes. To predict the number, pass "
            "--config.model.task=regression; else choose another column."
        )
    raise UserError(
        f"{start}looks like free text or identifiers, not classes. Choose another column, "
        "or list the classes in config.data.classes."
    )
