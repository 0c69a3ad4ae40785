"""How good tags of words are: whole entities, with intervals over the rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_finetune.data.spans import entities
from tf_finetune.data.tags import OUTSIDE
from tf_finetune.errors import UserError
from tf_finetune.results.resampling import middle, resamples
from tf_finetune.results.slices import parts_of

Rows = Sequence[Sequence[str]]


def score_tags(
    truth: Rows, chosen: Rows, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Scores tags in IOB2 against the true ones.

    An entity is right where its type and all of its words are. Figures are those of
    `seqeval`; an interval holds the middle 95% of the figure over `bootstrap` resamples of
    the rows.

    Args:
        truth: the tags of each row.
        chosen: likewise.
        bootstrap: resamples behind each interval.
        seed: of the resampling.

    Returns:
        `rows`, `words`, `entities`; `precision`, `recall` and `f1` over all entities, each
        with `NAME_interval`; `accuracy` of single words; `per_class` by type.

    Raises:
        UserError: if there are no rows.
    """
    from seqeval.metrics import accuracy_score, classification_report

    if not truth:
        raise UserError("There are no rows to evaluate on; make config.data.test larger.")
    counts = row_counts(truth, chosen)
    report: dict[str, Any] = {}
    if counts[:, 1:].any():  # seqeval fails where there is no entity at all
        truth, chosen = [list(row) for row in truth], [list(row) for row in chosen]
        report = classification_report(truth, chosen, output_dict=True, zero_division=0)
    whole = report.pop("micro avg", {"precision": 0.0, "recall": 0.0, "f1-score": 0.0})
    rounds = np.concatenate([_figures(w) for w in _resampled(counts, bootstrap, seed)])
    return {
        "rows": len(truth),
        "words": sum(map(len, truth)),
        "entities": int(counts[:, 1].sum()),
        "f1": float(whole["f1-score"]),
        "precision": float(whole["precision"]),
        "recall": float(whole["recall"]),
        **{
            f"{name}_interval": middle(rounds[:, i])
            for i, name in enumerate(("f1", "precision", "recall"))
        },
        "accuracy": float(accuracy_score(truth, chosen)),
        "per_class": {
            name: {
                "precision": float(found["precision"]),
                "recall": float(found["recall"]),
                "f1": float(found["f1-score"]),
                "support": int(found["support"]),
            }
            for name, found in report.items()
            if name not in ("macro avg", "weighted avg")
        },
    }


def gain_of_tags(
    truth: Rows, better: Rows, worse: Rows, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """How much larger F1 is on the same rows, which are resampled together; see `evaluate.gain`."""
    counts = row_counts(truth, better), row_counts(truth, worse)
    return gain_of_counts(*counts, bootstrap=bootstrap, seed=seed)


def gain_of_counts(
    better: np.ndarray, worse: np.ndarray, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """As `gain_of_tags`, of counts as `row_counts` gives them."""
    both = np.concatenate([better, worse], axis=1)
    apart = [_figures(w[:, :3])[:, 0] - _figures(w[:, 3:])[:, 0] for w in [both.sum(0)[None]]]
    rounds = [
        _figures(w[:, :3])[:, 0] - _figures(w[:, 3:])[:, 0]
        for w in _resampled(both, bootstrap, seed)
    ]
    return {
        "figure": "f1",
        "value": float(apart[0][0]),
        "interval": middle(np.concatenate(rounds)),
    }


def slices_of_tags(
    truth: Rows,
    chosen: Rows,
    slices: Mapping[str, np.ndarray],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """F1 on each part of the rows; see `slices.by_slice`."""
    counts, found = row_counts(truth, chosen), []
    for by, names in slices.items():
        for name, inside in parts_of(np.asarray(names)):
            some = counts[inside]
            rounds = np.concatenate([_figures(w) for w in _resampled(some, bootstrap, seed)])
            found.append(
                {
                    "by": by,
                    "name": name,
                    "rows": len(some),
                    "value": float(_figures(some.sum(0)[None])[0, 0]),
                    "interval": middle(rounds[:, 0]),
                }
            )
    return found


def row_counts(truth: Rows, chosen: Rows) -> np.ndarray:
    """int64 (n, 3): of each row the entities that are right, that are there, that were chosen."""
    pairs = [(set(entities(a)), set(entities(b))) for a, b in zip(truth, chosen, strict=True)]
    return np.array([(len(a & b), len(a), len(b)) for a, b in pairs], "int64").reshape(-1, 3)


def right_rows(counts: np.ndarray) -> np.ndarray:
    """(n,) 1 for each row whose entities are those that are there, by `row_counts`; else 0."""
    return np.all(counts == counts[:, :1], axis=1).astype("int64")


class WordTags:
    """The guess that gives each word the tag that it has most often in training.

    A word that does not stand there gets that of its small letters, else O.

    Args:
        words: of the training rows.
        tags: of these.
    """

    def __init__(self, words: Iterable[Sequence[str]], tags: Rows) -> None:
        exact: dict[str, Counter[str]] = defaultdict(Counter)
        small: dict[str, Counter[str]] = defaultdict(Counter)
        for row, its in zip(words, tags, strict=True):
            for word, tag in zip(row, its, strict=True):
                exact[word][tag] += 1
                small[word.lower()][tag] += 1
        # At a tie the one that came first.
        self._exact = {word: counts.most_common(1)[0][0] for word, counts in exact.items()}
        self._small = {word: counts.most_common(1)[0][0] for word, counts in small.items()}

    def of(self, words: Sequence[str]) -> list[str]:
        """Tags of the words of a row, not yet brought in order."""
        return [self._exact.get(word, self._small.get(word.lower(), OUTSIDE)) for word in words]


def _figures(counts: np.ndarray) -> np.ndarray:
    """F1, precision and recall (n, 3) of counts (n, 3)."""
    right, true, chosen = counts.T
    below = np.maximum(np.stack([true + chosen, chosen, true], axis=1), 1)
    return np.stack([2 * right, right, right], axis=1) / below


def _resampled(counts: np.ndarray, bootstrap: int, seed: int) -> Iterable[np.ndarray]:
    """Sums over resamples of the rows, in chunks."""
    groups, sizes = np.unique(counts, axis=0, return_counts=True)
    return (weights @ groups for weights in resamples(sizes, bootstrap, seed))
