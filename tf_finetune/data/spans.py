"""Tagged words of one text, and the entities that they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_finetune.data.tags import OUTSIDE


@dataclasses.dataclass(slots=True, kw_only=True, frozen=True)
class Span:
    """An entity.

    Attributes:
        type: such as `PER`.
        text: that it has.
        start: its first character in the whole text, counted from 0.
        end: the one behind its last.
        probability: of the tags of its words, in the mean.
        words: (first, behind the last) of them, by number.
    """

    type: str
    text: str
    start: int
    end: int
    probability: float
    words: tuple[int, int]


@dataclasses.dataclass(slots=True, kw_only=True)
class Tagged:
    """A text, divided into words, with their tags.

    Attributes:
        text: whole; of a list of words these with spaces between.
        words: of it.
        tags: in IOB2, one for each word. A word that the model does not see, because the text
            is too long or the word holds control characters alone, has `O`.
        probabilities: float32 (words, k); zeros of words that the model does not see.
        spans: the entities.
    """

    text: str
    words: list[str]
    tags: list[str]
    probabilities: np.ndarray
    spans: list[Span]

    @property
    def unseen(self) -> int:
        """How many words the model does not see."""
        return int((~self.probabilities.any(axis=1)).sum())


def tagged(
    text: str,
    words: Sequence[str],
    starts: Any,
    ends: Any,
    probabilities: np.ndarray,
    names: Sequence[str],
) -> Tagged:
    """The most probable tags, in which an I- that nothing begins begins an entity.

    Args:
        text: whole.
        words: of it.
        starts: whole numbers, the first character of each.
        ends: the one behind its last.
        probabilities: float32 (words, k), as in `Tagged`.
        names: of the k tags.
    """
    codes = probabilities.argmax(axis=1) if len(words) else np.zeros(0, "int64")
    tags = in_iob2([names[code] for code in codes])
    sure = probabilities[np.arange(len(codes)), codes]
    spans = [
        Span(
            type=kind,
            text=text[starts[first] : ends[last - 1]],
            start=int(starts[first]),
            end=int(ends[last - 1]),
            probability=float(sure[first:last].mean()),
            words=(first, last),
        )
        for kind, first, last in entities(tags)
    ]
    return Tagged(text=text, words=list(words), tags=tags, probabilities=probabilities, spans=spans)


def are_words(x: Sequence[Any]) -> bool | None:
    """Whether all of `x` are lists of words; False where all are texts, None for all else."""
    if all(isinstance(row, str) for row in x):
        return False
    lists = all(isinstance(row, list | tuple) for row in x)
    return True if lists and all(isinstance(w, str) for row in x for w in row) else None


def in_iob2(tags: Sequence[str]) -> list[str]:
    """The tags, of which each I- that follows no entity of its type has become a B-."""
    found, before = list[str](), OUTSIDE
    for tag in tags:
        orphan = tag.startswith("I-") and before[2:] != tag[2:]
        before = f"B-{tag[2:]}" if orphan else tag
        found.append(before)
    return found


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Of tags in IOB2, each entity's type, its first word and the one behind its last."""
    begins = [i for i, tag in enumerate(tags) if tag.startswith("B-")]
    found = []
    for first in begins:
        last = first + 1
        while last < len(tags) and tags[last].startswith("I-"):
            last += 1
        found.append((tags[first][2:], first, last))
    return found


def places_of(words: Sequence[str]) -> tuple[str, list[int], list[int]]:
    """Words with spaces between, and where each begins and ends there."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1 if len(words) else np.zeros(0, int)
    starts = ends - [len(word) for word in words]
    return " ".join(words), starts.astype(int).tolist(), ends.astype(int).tolist()


def in_characters(text: str, places: np.ndarray) -> np.ndarray:
    """Places counted in bytes of UTF-8 as places counted in characters."""
    if text.isascii():
        return places
    data = np.frombuffer(text.encode(), "uint8")
    begins = np.concatenate([[0], np.cumsum((data & 0xC0) != 0x80)])
    return begins[places]
