"""Whether two models really differ, by what each gives for the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test: of the rows that one model alone has right, how many each.

    Args:
        first: (n,) ones where one model is right, and zeros.
        second: the same of the other, for the same rows.

    Returns:
        `only_first`, `only_second` and the two-sided `p`: how often chance alone would
        share those rows out as unevenly or more.
    """
    from scipy.stats import binomtest

    one, other = int(np.sum(first > second)), int(np.sum(first < second))
    p = binomtest(one, one + other).pvalue if one + other else 1.0
    return {"only_first": one, "only_second": other, "p": float(p)}


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several tests, mended so that one in twenty families errs (Holm 1979)."""
    found, most = [0.0] * len(values), 0.0
    for place, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        most = max(most, min(1.0, (len(values) - place) * values[i]))
        found[i] = most
    return found
