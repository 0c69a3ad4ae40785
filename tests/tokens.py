"""Tagged words that a tiny model can learn, and runs on them."""

from pathlib import Path

import numpy as np

from tests.runs import config_for
from tests.tiny import WORDS

# An entity of one word, and one of two; "##s" makes a second piece of a word.
_NAMES = {"good": ["B-QUALITY"], "film plots": ["B-WORK", "I-WORK"]}


def sentences(count: int = 80, seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    """Words and tags of rows of 3 to 12 words, each with one or two entities."""
    generator = np.random.default_rng(seed)
    words, tags = [], []
    for i in range(count):
        row = [[word] for word in generator.choice(WORDS[6:10], size=generator.integers(2, 9))]
        marks = [["O"] for _ in row]
        for name in list(_NAMES)[: 1 + i % 2] if i % 3 else list(_NAMES)[1:]:
            place = int(generator.integers(0, len(row) + 1))
            row.insert(place, name.split())
            marks.insert(place, _NAMES[name])
        words.append([word for name in row for word in name])
        tags.append([tag for mark in marks for tag in mark])
    return words, tags


def table(count: int = 80) -> dict[str, list]:
    words, tags = sentences(count)
    return {"text": words, "label": tags}


def write_conll(file: Path, words, tags) -> Path:
    rows = zip(words, tags, strict=True)
    text = ["".join(f"{w}\tX\t{t}\n" for w, t in zip(*row, strict=True)) + "\n" for row in rows]
    file.write_text("".join(text))
    return file


def token_config(preset, **changes):
    settings = {"sequence_length": 32, "task": "token_classification", "duplicates": "warn"}
    return config_for(preset, **settings | changes)
