"""What was found wrong with rows, and what a policy makes of it."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable

from tf_finetune.errors import UserError

_MOST_EXAMPLES = 5
_MOST_TEXT = 120
MOST_LISTED = 100_000
"""Places of each kind: more fill the memory, and nobody reads them."""


@dataclasses.dataclass(slots=True)
class Finding:
    """All that was found of one kind.

    Attributes:
        count: how often it was found.
        listed: (place, text) of the first 100,000.
        rows: of the table, (row, another row that it is like or -1).
        action: what was done about it, in a few words; empty for nothing.
    """

    count: int = 0
    listed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    rows: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    action: str = ""

    @property
    def examples(self) -> list[tuple[str, str]]:
        """(place, text) of the first few."""
        return self.listed[:_MOST_EXAMPLES]


class Findings:
    """Counts, and places, of each kind of thing found in the rows.

    A kind is a plain name: "empty text", "exact duplicate", "leak", ...
    """

    def __init__(self) -> None:
        self._kinds: dict[str, Finding] = {}

    def add(
        self, kind: str, where: str, example: str = "", *, row: int = -1, like: int = -1
    ) -> None:
        """Counts one more of `kind`.

        Args:
            kind: a plain name, singular.
            where: the place as `FILE:ROW`.
            example: the text found there; long ones are cut when shown.
            row: of the table, if it got there.
            like: the row of the table that it is like, if the kind is about that.
        """
        found = self._kinds.setdefault(kind, Finding())
        found.count += 1
        if len(found.listed) < MOST_LISTED:
            found.listed.append((where, _shorten(example)))
        if row >= 0:
            found.rows.append((row, -1 if like == row else like))

    def act(self, kind: str, action: str) -> None:
        """Notes what was done about `kind`; nothing if none was found."""
        if kind in self._kinds:
            self._kinds[kind].action = action

    def count(self, kind: str) -> int:
        """How often `kind` was found."""
        return self._kinds[kind].count if kind in self._kinds else 0

    def kinds(self) -> tuple[str, ...]:
        """The kinds found, in the order in which each was first seen."""
        return tuple(self._kinds)

    def __getitem__(self, kind: str) -> Finding:
        return self._kinds[kind]

    def enforce(self, kind_or_kinds: str | Iterable[str], policy: str, option: str) -> None:
        """Stops the run if the policy is "error" and any of the kinds was found.

        Args:
            kind_or_kinds: one kind or several that share an option.
            policy: "error", "drop" or "warn".
            option: the name below `config.data` that sets the policy.

        Raises:
            UserError: naming the counts, the first places and the mend.
        """
        kinds = [kind_or_kinds] if isinstance(kind_or_kinds, str) else list(kind_or_kinds)
        found = [kind for kind in kinds if self.count(kind)]
        if policy != "error" or not found:
            return
        total = sum(self.count(kind) for kind in found)
        places = [place for kind in found for place in self._kinds[kind].examples]
        shown = "; ".join(_place(*place) for place in places[:3])
        more = f"; and {total - 3:,} more" if total > 3 else ""
        encoding = " set --config.data.encoding," if "undecodable bytes" in found else ""
        raise UserError(
            f"Found {self.summary(found)}: {shown}{more}. "
            f"Mend the data,{encoding} or pass --config.data.{option}=drop to leave such rows out; "
            "a run then lists all in findings.csv (now error; allowed: error, drop, warn)."
        )

    def summary(self, kinds: Iterable[str] | None = None) -> str:
        """`3 x leak, 1 x empty text`, of the given kinds or of all."""
        kinds = self._kinds if kinds is None else kinds
        return ", ".join(f"{self.count(kind):,} x {kind}" for kind in kinds) or "nothing found"

    def to_csv(self) -> str:
        """A line for each place: the kind, the place, and the text found there; empty for none."""
        out = io.StringIO()
        lines = [(kind, *at) for kind, found in self._kinds.items() for at in found.listed]
        csv.writer(out).writerows([("kind", "place", "text"), *lines] if lines else [])
        return out.getvalue()

    def to_markdown(self) -> str:
        """A section for each kind: the count, what was done, and examples."""
        if not self._kinds:
            return "Nothing was found wrong with the rows.\n"
        return "\n".join(_section(kind, found) for kind, found in self._kinds.items())


def _section(kind: str, found: Finding) -> str:
    action = f" {found.action}" if found.action else ""
    lines = [f"### {kind[0].upper()}{kind[1:]}: {found.count:,}", ""]
    lines += [action.strip(), ""] if action else []
    lines += [
        f"- `{' '.join(where.split()).replace('`', chr(39))}`" + (f": {safe(text)}" if text else "")
        for where, text in found.examples
    ]
    if found.count > len(found.examples):
        lines.append(
            f"- and {found.count - len(found.examples):,} more, in `findings.csv` of a run"
        )
    return "\n".join(lines) + "\n"


def safe(text: str) -> str:
    """One line of a text that breaks no table and is no HTML, link, picture or code."""
    line = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return line.replace("<", "&lt;").replace("[", "\\[").replace("`", "'")


def _place(where: str, text: str) -> str:
    return f'{where} "{text}"' if text else where


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
