"""Which rows train, which validate and which test: pure functions of the rows' content.

Nothing here depends on where or in what order rows are stored: a row's place comes
from a hash of its text and the seed. The same rows in another order get the same split.
"""

from __future__ import annotations

import numpy as np

# `retained` is never made here: it is there where `config.data.retained` gives it.
SPLITS = ("train", "validation", "test", "retained")
# A text that stands in two splits is taken from the lower one; last, for rows left out.
RANKS = np.array([0, 2, 3, 1, -1], np.int8)
_BINS = 10


def random_order(keys: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random number for each key, uint64 like them, that depends on nothing else."""
    # The finaliser of SplitMix64; arithmetic is modulo 2**64.
    mixed = keys + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def strata(labels: np.ndarray) -> np.ndarray:
    """One number a row; splits and `limit` keep the shares of each number.

    A class is its own number. A multi-label row has the number of the rarest of its
    labels, or k if it has none. A regression target has that of its decile.

    Args:
        labels: (n,) int classes, (n, k) float multi-hot or (n,) float targets.

    Returns:
        (n,) int64.
    """
    if labels.ndim == 2:
        by_rarity = np.argsort(labels.sum(axis=0), kind="stable")
        first = np.argmax(labels[:, by_rarity] > 0, axis=1)
        return np.where(labels.any(axis=1), by_rarity[first], labels.shape[1]).astype(np.int64)
    if labels.dtype.kind != "f":
        return labels.astype(np.int64)
    bins = max(1, min(_BINS, len(labels) // _BINS))
    edges = np.quantile(labels, np.linspace(0, 1, bins + 1)[1:-1]) if len(labels) else []
    return np.searchsorted(edges, labels, side="right").astype(np.int64)


def assign(
    stratum: np.ndarray,
    cluster: np.ndarray,
    keys: np.ndarray,
    fractions: tuple[float, float],
    seed: int,
) -> np.ndarray:
    """Splits rows so that a cluster stays whole and each split has its share of each stratum.

    Strata are served from the rarest on. Within one, clusters go from the largest on,
    those of one size in random order, each to the split that lacks most rows; what
    rounding leaves over is carried to the next stratum. A split whose share of a
    stratum is half a row or more gets at least one cluster of it while there are enough.
    A cluster counts for the rarest stratum in it.

    Args:
        stratum: (n,) int64.
        cluster: (n,) int64, equal for rows that must stay together.
        keys: (n,) uint64 from the rows' content; they decide the random order.
        fractions: of the rows for validation and for test.
        seed: another one gives another split.

    Returns:
        (n,) int8 indices into `SPLITS`.
    """
    if not len(stratum):
        return np.empty(0, np.int8)
    _, stratum, counts = np.unique(stratum, return_inverse=True, return_counts=True)
    _, cluster = np.unique(cluster, return_inverse=True)
    size = np.bincount(cluster)
    rarity = np.empty(len(counts), np.int64)
    rarity[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    rarest = np.full(len(size), len(counts))
    np.minimum.at(rarest, cluster, rarity[stratum])
    chance = np.full(len(size), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(chance, cluster, random_order(keys, seed))
    order = np.lexsort((chance, -size, rarest))
    shares = np.array([1 - sum(fractions), *fractions])
    side = np.empty(len(size), np.int8)
    carry = np.zeros(3)
    for one in np.split(order, np.flatnonzero(np.diff(rarest[order])) + 1):
        side[one], carry = _serve(size[one], shares, carry)
    return side[cluster]


def _serve(
    sizes: np.ndarray, shares: np.ndarray, carry: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Splits one stratum's clusters: (m,) sides, and what each split still lacks after it."""
    fair = shares * sizes.sum()
    lacks = fair + carry
    # A split without a share gets nothing, whatever rounding left over.
    lacks[shares == 0] = -np.inf
    lacks = np.where(fair >= 0.5 - 1e-9, np.maximum(lacks, 1.0), lacks)
    by_share = np.argsort(shares, kind="stable").tolist()  # at a tie the smaller split is served
    need, sides = lacks.tolist(), np.empty(len(sizes), np.int8)
    for i, size in enumerate(sizes.tolist()):
        side = max(by_share, key=need.__getitem__)
        need[side] -= size
        sides[i] = side
    return sides, fair + carry - np.bincount(sides, weights=sizes, minlength=3)


def nested_order(stratum: np.ndarray, keys: np.ndarray, seed: int) -> np.ndarray:
    """An order of rows whose every beginning has the shares of the whole.

    The first rows are one of each stratum, so that the first n rows, n at least the
    number of strata, miss none; and the first 64 are among the first 256.

    Args:
        stratum: (n,) int64.
        keys: (n,) uint64 from the rows' content.
        seed: another one gives another order.

    Returns:
        (n,) int64 permutation.
    """
    chance = random_order(keys, seed)
    order = np.lexsort((chance, stratum))
    _, start, counts = np.unique(stratum[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(start, counts)
    return order[np.lexsort((chance[order], rank / np.repeat(counts, counts)))]
