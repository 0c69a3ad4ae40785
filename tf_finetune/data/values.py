"""One raw value of a source made a text, a label or a target."""

from __future__ import annotations

import datetime
import decimal
import math
import numbers
import re
from typing import Any

from tf_finetune.data_checks import LANGUAGE
from tf_finetune.errors import UserError

_MOST = 60
_NUMBER = re.compile(r"[+-]?\d+(\.0*)?")
# Beyond this float32 has no squares, which losses and spreads are made of.
_MOST_TARGET = 1e18
# Of a row's classes.
Shares = dict[str, float]
_SOFT = (
    "with --config.data.soft_labels it is a class, or an object with a number of at least 0 for "
    'each class, as {"good": 0.7, "bad": 0.3} in JSONL or Parquet; a CSV file cannot hold one.'
)


class Unusable(Exception):
    """This row's value cannot be used; the message is the kind of finding."""


def text(value: Any) -> str:
    """The value as text; null gives an empty one.

    Bytes are read as UTF-8; those that are not stay in it as surrogates, which
    `is_readable` finds.

    Raises:
        TypeError: if the value is no single value.
    """
    if type(value) is str:
        return value
    if is_null(value):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if _is_whole(value):
        value = int(value)
    if isinstance(value, datetime.date):  # with a time or without
        return value.isoformat()
    if isinstance(value, str | bool | int | float | decimal.Decimal):
        return str(value)
    raise TypeError(f"found {shown(value)}, a {type(value).__name__}")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _is_whole(value: Any) -> bool:
    return (
        isinstance(value, float | decimal.Decimal) and math.isfinite(value) and value == int(value)
    )


def is_null(value: Any) -> bool:
    """Whether the value is None or not a number."""
    return value is None or (isinstance(value, float) and value != value)


def is_readable(value: str) -> bool:
    """False where bytes could not be decoded, or JSON holds half a character."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: Any) -> str:
    """The value's repr, cut to a line."""
    line = repr(value)
    return line if len(line) <= _MOST else line[:_MOST] + "…"


class Labels:
    """Turns the raw labels of one part into those of the task.

    It remembers where each type of value was first seen: 1 and "pos" in one
    column are a mistake that would otherwise make two classes.
    """

    def __init__(
        self,
        task: str,
        separator: str,
        *,
        soft: bool = False,
        others: dict[str, tuple[str, Any]] | None = None,
    ) -> None:
        """Prepares for one part.

        Args:
            task: that the labels are for.
            separator: as `config.data.label_separator`.
            soft: as `config.data.soft_labels`.
            others: what parts before it have seen first; added to.
        """
        self._task = task
        self._separator = separator
        self._soft = soft
        self._first: dict[str, tuple[str, Any]] = {}
        self._others = {} if others is None else others

    def convert(self, value: Any, file: str, row: int) -> str | list[str] | float | Shares:
        """The label of one row.

        Returns:
            A string for classification, of soft labels shares that sum to 1 by class, a
            list of strings for multi_label, a float for regression, and for causal_lm the
            response as it stands.

        Raises:
            Unusable: if the row has no label, or a target that is not finite.
            UserError: if the value cannot be a label of the task, or its type
                differs from that of earlier rows.
        """
        if self._task == "multi_label":
            return self._several(value, f"{file}:{row}")
        if self._task == LANGUAGE:
            return _response(value, f"{file}:{row}")
        if self._soft and (shares := _shares(value, f"{file}:{row}")) is not None:
            return shares
        if is_null(value) and not (self._task == "regression" and isinstance(value, float)):
            raise Unusable("missing label")
        if self._task == "regression":
            return _target(value, f"{file}:{row}")
        name = value.strip() if type(value) is str and "str" in self._first else None
        if name is None:
            name = self._name(value, f"{file}:{row}")
        if not name:
            raise Unusable("missing label")
        return {name: 1.0} if self._soft else name

    def _several(self, value: Any, place: str) -> list[str]:
        if is_null(value):
            raise Unusable("missing label")
        if isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1:] == "]":
            raise UserError(
                f"{place}: the label is {shown(value)}, a printed list. Write the labels of a row "
                f'with "{self._separator or "|"}" between (config.data.label_separator), or give '
                "lists in .jsonl or .parquet."
            )
        if isinstance(value, str) and self._separator:
            value = value.split(self._separator)
        elif not isinstance(value, list | tuple):
            value = [value]
        if any(is_null(item) for item in value):
            raise Unusable("missing label")
        names = (self._name(item, place) for item in value)
        return list(dict.fromkeys(name for name in names if name))

    def _name(self, value: Any, place: str) -> str:
        """A class's name: whole numbers as "1", without blanks at the ends."""
        if isinstance(value, list | tuple | dict):
            raise UserError(
                f"{place}: the label is {shown(value)}; classification takes one value a row. "
                "For several labels a row set --config.model.task=multi_label; for shares of "
                'classes, as {"good": 0.7, "bad": 0.3}, --config.data.soft_labels=True.'
            )
        if isinstance(value, float | decimal.Decimal) and not _is_whole(value):
            raise UserError(
                f"{place}: the label is the number {value}, which looks like a regression target. "
                "Set --config.model.task=regression, or store the classes as text or whole numbers."
            )
        try:
            name = text(value).strip()
        except TypeError as error:
            raise UserError(f"{place}: the label must be text or a number; {error}.") from None
        self._check_type(value, place)
        return name

    def _check_type(self, value: Any, place: str) -> None:
        if isinstance(value, bool):
            kind = "bool"
        else:
            kind = "str" if isinstance(value, str | bytes) else "number"
        if kind in self._first:
            return
        self._first[kind] = place, value
        found = [*self._first.values()]
        for other, (where, seen) in self._others.items() if len(found) == 1 else ():
            # A table of text beside one of numbers may name the same classes.
            if other != kind and not ("str" in (other, kind) and _alike(value, seen)):
                found.insert(0, (where, seen))
        self._others.setdefault(kind, (place, value))
        if len(found) > 1:
            (one, a), (two, b) = found[:2]
            raise UserError(
                f"The label column mixes types: {shown(a)} at {one}, {shown(b)} at {two}. "
                "Make all labels text, all whole numbers or all true/false."
            )


def _alike(one: Any, other: Any) -> bool:
    """Whether both are whole numbers, or both true or false, if one is written as text."""
    written = [text(value).strip() for value in (one, other)]
    if any(isinstance(value, bool) for value in (one, other)):
        return all(value in ("True", "False") for value in written)
    return all(map(_NUMBER.fullmatch, written))


def _shares(value: Any, place: str) -> Shares | None:
    """Shares of classes, which sum to 1, without those of 0 or null; None for a plain label."""
    if isinstance(value, list) and value and all(map(_is_pair, value)):
        value = dict(value)  # of a map in Parquet
    if isinstance(value, list | tuple) or (isinstance(value, str) and value.lstrip()[:1] == "{"):
        raise UserError(f"{place}: the label is {shown(value)}; {_SOFT}")
    if not isinstance(value, dict):
        return None
    shares: Shares = {}
    for name, share in value.items():
        if is_null(share):
            continue
        number = isinstance(share, numbers.Real | decimal.Decimal) and not isinstance(share, bool)
        if not (number and 0 <= share < math.inf):
            raise UserError(f"{place}: the label is {shown(value)}; {_SOFT}")
        if share and (name := _class(name, value, place)):
            shares[name] = shares.get(name, 0.0) + float(share)
    total = sum(shares.values())
    if not total:
        raise Unusable("missing label")
    return {name: share / total for name, share in shares.items()}


def _class(name: Any, value: Any, place: str) -> str:
    try:
        return text(name).strip()
    except TypeError:
        raise UserError(f"{place}: the label is {shown(value)}; {_SOFT}") from None


def columns_of(label: Any) -> list[Any]:
    """A label as the table has it: a soft one as the class with most, and the shares of all."""
    if isinstance(label, dict):
        return [max(label, key=label.__getitem__), [*label.items()]]
    return [label]


def names_in(label: Any) -> list[str]:
    """The classes that a label names."""
    if isinstance(label, str):
        return [label]
    return [*label] if isinstance(label, list | dict) else []


def _response(value: Any, place: str) -> str:
    """A text to be written, with the blanks at its ends, which count."""
    try:
        found = text(value)
    except TypeError as error:
        raise UserError(
            f"{place}: config.data.label must name a column of text, the response; {error}."
        ) from None
    if not found.strip():
        raise Unusable("missing label")
    return found


def _target(value: Any, place: str) -> float:
    if isinstance(value, str | bytes) and not value.strip():
        raise Unusable("missing label")
    try:
        if isinstance(value, bool | list | tuple):
            raise TypeError
        target = float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"{place}: the label is {shown(value)}; regression takes a number. For classes set "
            "--config.model.task=classification."
        ) from None
    if not abs(target) <= _MOST_TARGET:  # written so that NaN fails too
        raise Unusable("non-finite target")
    return target
