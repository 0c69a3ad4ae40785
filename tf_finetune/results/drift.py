"""How far tuning has moved a backbone: its weights, and what they make of texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def relative_l2(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    """The length of the change of some weights, as a share of their length before."""
    moved = sum(
        float(np.sum((np.asarray(b, "float64") - np.asarray(a, "float64")) ** 2))
        for a, b in zip(before, after, strict=True)
    )
    size = sum(float(np.sum(np.asarray(a, "float64") ** 2)) for a in before)
    return float(np.sqrt(moved / size)) if size else 0.0


def cka(first: np.ndarray, second: np.ndarray) -> float | None:
    """How alike two representations of the same rows are: 1 is the same but for a rotation.

    Linear centred kernel alignment (Kornblith et al., ICML 2019) with the unbiased
    estimate of HSIC (Song et al., JMLR 2012): the plain one nears 1 for any two
    representations that are wider than the rows are many.

    Args:
        first: (n, a), n at least 4.
        second: (n, b), of the same rows.

    Returns:
        A number up to 1, near 0 where they have nothing in common; None where the rows
        are too few, or all alike.
    """
    if len(first) < 4:
        return None
    grams = [_gram(first), _gram(second)]
    own = [_hsic(gram, gram) for gram in grams]
    if min(own) <= 0:
        return None
    return float(_hsic(*grams) / np.sqrt(own[0] * own[1]))


def _gram(features: np.ndarray) -> np.ndarray:
    # Centred first: the estimate does not change by it, and its digits are kept.
    features = np.asarray(features, "float64")
    features = features - features.mean(axis=0)
    gram = features @ features.T
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(k: np.ndarray, m: np.ndarray) -> float:
    n = len(k)
    found = np.sum(k * m) + k.sum() * m.sum() / ((n - 1) * (n - 2))
    found -= 2 / (n - 2) * (k.sum(axis=0) @ m.sum(axis=1))
    return float(found / (n * (n - 3)))
