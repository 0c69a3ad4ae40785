"""Checks of single values, each with the one sentence that names the mistake."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import typing
from collections.abc import Iterable
from typing import Any

from tf_finetune.errors import UserError

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` Did you mean "x"?` for a close name among `allowed`, else an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f' Did you mean "{close[0]}"?' if close else ""


def kind_of(hint: Any) -> str:
    """What a value of the annotated type is called in a message: `a whole number`."""
    return _KINDS.get(hint, "a list of strings")


def one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    """Raises `UserError` with the nearest choice where `value` is not `allowed`."""
    if value not in allowed:
        raise UserError(
            f'{name} is "{value}"; allowed: {", ".join(allowed)}.{nearest(value, allowed)}'
        )


def check_types(config: Any, where: str) -> None:
    """Raises `UserError` where a field's value is not of its annotated type.

    What cannot be mistaken is converted in place: a whole number to a float, a
    path to a string, a list to a tuple, a fraction given as a number to a string.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value, hint = f"{where}.{field.name}", getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, typing.cast(type, hint)):
                kind = typing.cast(type, hint).__name__
                raise UserError(f"{name} is {value!r}; it must be a {kind}.")
            check_types(value, name)
        elif hint is not Any:
            setattr(config, field.name, _typed(value, hint, name))


def _typed(value: Any, hint: Any, name: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if name in ("config.data.validation", "config.data.test") and type(value) in (int, float):
        return str(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return tuple(value)
    elif type(value) is hint:
        return value
    raise UserError(f"{name} is {value!r}; it must be {kind_of(hint)}.")


def seed(name: str, value: int) -> None:
    if not 0 <= value < 2**32:
        raise UserError(f"{name} is {value}; it must be at least 0 and below 2**32.")


def at_least(name: str, value: float, least: int) -> None:
    if not math.isfinite(value) or value < least:
        raise UserError(f"{name} is {value}; it must be at least {least}.")


def whole_number(name: str, value: Any, least: int) -> None:
    if type(value) is not int:
        raise UserError(f"{name} is {value!r}; it must be a whole number.")
    at_least(name, value, least)


def at_most_batch(name: str, value: int, batch: int) -> None:
    if value > batch:
        raise UserError(f"{name} is {value}, but a batch has {batch} examples; lower it.")


def positive(name: str, value: float) -> None:
    if not math.isfinite(value) or value <= 0:
        raise UserError(f"{name} is {value}; it must be a number above 0.")


def share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise UserError(f"{name} is {value}; it must be above 0 and at most 1.")


def fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name} is {value}; it must be at least 0 and below 1.")
