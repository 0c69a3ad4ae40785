"""The bootstrap, over groups of equal rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

# Numbers held at once.
_MOST_WEIGHTS = 4_000_000


def resamples(counts: np.ndarray, bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """(chunk, groups) row counts of resamples, in chunks of bounded memory."""
    random = np.random.default_rng(seed)
    total, chunk = int(counts.sum()), max(1, _MOST_WEIGHTS // len(counts))
    for start in range(0, bootstrap, chunk):
        size = min(chunk, bootstrap - start)
        yield random.multinomial(total, counts / total, size=size).astype("float64")


def middle(values: np.ndarray) -> list[float | None]:
    """The bounds of the middle 95% of the values that are defined."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return [None, None]
    return [float(value) for value in np.percentile(defined, [2.5, 97.5])]


class F1:
    """F1 over groups of equal rows, from how many rows each group has.

    Args:
        truth: (groups, k) zeros and ones, as an array or a sparse one of scipy.
        chosen: (groups, k) likewise.
    """

    def __init__(self, truth: Any, chosen: Any) -> None:
        self._truth, self._chosen = truth.astype("float64"), chosen.astype("float64")
        self._both = self._truth * self._chosen  # by elements: of a sparse array too

    def _ratio(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 2 * (weights @ self._both), weights @ self._truth + weights @ self._chosen

    def macro(self, weights: np.ndarray) -> np.ndarray:
        """(..., groups) row counts to (...) means over the classes that occur."""
        above, below = self._ratio(weights)
        return (above / np.maximum(below, 1)).sum(-1) / np.maximum((below > 0).sum(-1), 1)

    def micro(self, weights: np.ndarray) -> np.ndarray:
        """(..., groups) row counts to (...) F1 over all labels together."""
        above, below = self._ratio(weights)
        return above.sum(-1) / np.maximum(below.sum(-1), 1)

    def table(self, weights: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support by class name; 0 where undefined."""
        both, truth, chosen = (weights @ part for part in (self._both, self._truth, self._chosen))
        columns = {
            "precision": both / np.maximum(chosen, 1),
            "recall": both / np.maximum(truth, 1),
            "f1": 2 * both / np.maximum(truth + chosen, 1),
        }
        return {
            name: {
                **{key: float(values[i]) for key, values in columns.items()},
                "support": int(truth[i]),
            }
            for i, name in enumerate(names)
        }


def one_hot(classes: np.ndarray, k: int) -> Any:
    """(n, k) zeros and ones, without the zeros."""
    from scipy.sparse import csr_array

    count = len(classes)
    return csr_array((np.ones(count), (np.arange(count), classes)), shape=(count, k))
