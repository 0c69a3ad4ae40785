"""What every reader hands over: numbered records of the columns asked for."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig
from tf_finetune.value_checks import nearest

Record = tuple[str, int, Sequence[Any]]
"""File, row (1-based) and the values of the columns, in the order asked for."""

_MOST_NAMES = 20
_MOST_NAME = 40


@dataclasses.dataclass(slots=True, frozen=True)
class Columns:
    """The columns to read: what each is for, and its name in the source.

    Attributes:
        roles: `text` and `text_pair`, or in their place `image` or `words`; `label`, `group`,
            `slice`, `split`, `where`; those in use.
        names: the column's name for each role.
    """

    roles: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, config: DataConfig, *, labelled: bool, words: bool = False) -> Columns:
        """The columns that the configuration asks for.

        Args:
            config: names the columns.
            labelled: False reads the texts or pictures alone.
            words: the texts are divided into words.

        Raises:
            UserError: if the text or label column has no name, or both the same.
        """
        chosen = {"text": config.text, "text_pair": config.text_pair}
        if config.image:
            chosen = {"image": config.image}
        elif words:
            chosen = {"words": config.text}
        if labelled:
            chosen |= {"label": config.label, "group": config.group, "slice": config.slice}
            chosen |= {"split": config.split}
            chosen |= {"where": config.where.partition("=")[0]}
        for role in ("text", "label"):
            if chosen.get(role) == "":
                raise UserError(f"config.data.{role} is empty; name the column of the {role}.")
        first = next(iter(chosen))
        if chosen.get("label") == chosen[first]:
            raise UserError(f'{setting_of(first)} and config.data.label are both "{config.label}".')
        chosen = {role: name for role, name in chosen.items() if name}
        return cls(tuple(chosen), tuple(chosen.values()))

    def find_in(self, place: str, found: Sequence[str]) -> list[int]:
        """The position in `found` of each name.

        Raises:
            UserError: if a name is missing or stands twice in `found`.
        """
        check_unique(place, found)
        for name in self.names:
            if name not in found:
                raise self.missing(place, name, found)
        return [found.index(name) for name in self.names]

    def missing(self, place: str, name: str, found: Iterable[str]) -> UserError:
        """The error for a column that is not there; it lists those that are."""
        found = list(found)
        option = setting_of(self.roles[self.names.index(name)])
        value = "=VALUE" if option.endswith("where") else ""
        return UserError(
            f'{place} has no column "{name}" ({option}). It has: {quoted(found)}.'
            f"{nearest(name, found)} Choose one with --{option}=NAME{value}."
        )


@dataclasses.dataclass(slots=True)
class Part:
    """A stretch of records from one file, array or prepared data set.

    Attributes:
        name: for messages.
        split: "train", "validation", "test" or "retained".
        records: read once, in order.
        columns: of the records, where they are not those of the other parts.
    """

    name: str
    split: str
    records: Iterator[Record]
    columns: Columns | None = None


def setting_of(role: str) -> str:
    """The setting that names the column of a role."""
    return f"config.data.{'text' if role == 'words' else role}"


def check_unique(place: str, found: Sequence[str]) -> None:
    """Raises `UserError` if a column name stands twice; unnamed ones may."""
    counts = collections.Counter(found)
    twice = sorted(name for name, count in counts.items() if name and count > 1)
    if twice:
        raise UserError(
            f"{place} has more than one column {quoted(twice)}; rename or remove the others."
        )


def quoted(names: Iterable[Any]) -> str:
    """`"a", "b"`: each name in quotes, long ones and long lists cut."""
    names = [str(name) for name in names]
    shown = [name if len(name) <= _MOST_NAME else name[:_MOST_NAME] + "…" for name in names]
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(f'"{name}"' for name in shown[:_MOST_NAMES]) + more
