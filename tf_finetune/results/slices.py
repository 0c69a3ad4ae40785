"""How good a model is on parts of the test rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_finetune.results.evaluate import row_goodness
from tf_finetune.results.resampling import middle, resamples

_BUCKETS = 4
_MOST_VALUES = 10
OTHERS = "(all others)"


def length_buckets(lengths: np.ndarray) -> np.ndarray:
    """(n,) names of up to four buckets of about equal size: `1 to 12`, `13 to 20`, ..."""
    lengths = np.asarray(lengths)
    shares = np.arange(1, _BUCKETS) / _BUCKETS
    edges = np.unique(np.quantile(lengths, shares, method="inverted_cdf"))
    places = np.searchsorted(edges, lengths)
    names = {
        p: f"{lengths[places == p].min()} to {lengths[places == p].max()}"
        for p in np.unique(places)
    }
    return np.array([names[p] for p in places])


def by_slice(
    task: str,
    outputs: np.ndarray,
    labels: np.ndarray,
    slices: Mapping[str, np.ndarray],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The decisive figure on each part of the rows.

    Of a column with many values the ten largest are told one by one. Shares have
    Wilson's interval, which does not vanish where all rows are right; a mean absolute
    error has that of the bootstrap.

    Args:
        task: `classification`, `multi_label` or `regression`.
        outputs: as in `evaluate.score`.
        labels: as in `evaluate.score`.
        slices: by what rows are divided, and (n,) the name of each row's part.
        bootstrap: resamples behind an interval.
        seed: of the resampling.

    Returns:
        Dicts of `by`, `name`, `rows`, `value` and `interval`, in the order of the names.
    """
    goodness = np.abs(row_goodness(task, outputs, labels))
    found = []
    for by, names in slices.items():
        for name, inside in parts_of(np.asarray(names)):
            values = goodness[inside]
            interval = (
                _bootstrapped(values, bootstrap, seed)
                if task == "regression"
                else wilson(int(values.sum()), len(values))
            )
            found.append(
                {
                    "by": by,
                    "name": name,
                    "rows": len(values),
                    "value": float(values.mean()),
                    "interval": interval,
                }
            )
    return found


def wilson(count: int, rows: int) -> list[float]:
    """Wilson's 95% interval of a share."""
    from scipy.stats import binomtest

    found = binomtest(count, rows).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]


def parts_of(names: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The names of parts (n,), each once, and (n,) bool: its rows."""
    values, counts = np.unique(names, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:_MOST_VALUES]
    shown = sorted((str(values[i]) for i in largest), key=_in_order)
    parts = [(name, names == name) for name in shown]
    if len(values) > _MOST_VALUES:
        parts.append((OTHERS, ~np.isin(names, values[largest])))
    return parts


def _bootstrapped(values: np.ndarray, bootstrap: int, seed: int) -> list[float | None]:
    each, counts = np.unique(values, return_counts=True)
    rounds = np.concatenate([w @ each for w in resamples(counts, bootstrap, seed)])
    return middle(rounds / len(values))


def _in_order(name: str) -> tuple[float, str]:
    """`5 to 8` before `10 to 12`, and words by the alphabet."""
    number = re.match(r"\d+", name)
    return float(number[0]) if number else float("inf"), name
