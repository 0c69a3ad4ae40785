"""The mistakes that a model is surest of, and the training rows that are most like them."""

from __future__ import annotations

import numpy as np

from tf_finetune.results.evaluate import row_goodness

# Of the mistakes in a card, and of the characters of a text there.
MOST_MISTAKES, MOST_TEXT = 15, 300


def worst(task: str, outputs: np.ndarray, labels: np.ndarray, most: int) -> list[tuple[int, float]]:
    """Positions of the worst rows and how bad each is, the worst first.

    Bad is, for classification, the probability of the wrong class that was chosen; with
    several labels, how far the worst label is off; for regression the absolute error.

    Args:
        task: `classification`, `multi_label` or `regression`.
        outputs: as in `evaluate.score`.
        labels: as in `evaluate.score`.
        most: how many at most; those that are right are none.
    """
    outputs, goodness = np.asarray(outputs, "float64"), row_goodness(task, outputs, labels)
    if task == "regression":
        badness = -goodness
    else:
        off = np.abs(outputs - labels) if task == "multi_label" else outputs
        badness = np.where(goodness == 1, 0.0, off.max(axis=1))
    return [(i, float(badness[i])) for i in largest(badness, most)]


def largest(badness: np.ndarray, most: int) -> list[int]:
    """Positions of the rows that are bad at all, the worst first."""
    order = np.argsort(-badness, kind="stable")[:most]
    return order[badness[order] > 0].tolist()


def nearest(queries: np.ndarray, features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `features` that are most like each query by the cosine.

    Args:
        queries: (q, width).
        features: (n, width).
        count: how many for each; all if there are fewer.

    Returns:
        (q, count) positions, the nearest first, and their cosines.
    """
    alike = _unit(queries) @ _unit(features).T
    places = np.argsort(-alike, axis=1, kind="stable")[:, :count]
    return places, np.take_along_axis(alike, places, axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, "float64")
    sizes = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(sizes > 0, sizes, 1.0)
