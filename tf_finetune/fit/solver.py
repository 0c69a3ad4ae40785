"""A head alone, taken to its optimum on cached features instead of trained step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

# Penalties to choose from, strongest first: each solution is where the next one begins.
PENALTIES = tuple(10.0**k for k in np.arange(1.0, -4.5, -0.5))
_ROUNDS = 300

# From outputs (n, k) and targets (n, k) to losses (n,) and their slopes (n, k).
_Loss = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def solutions(
    kind: str,
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None = None,
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """The best kernel and bias of a linear head under each of `PENALTIES`, by L-BFGS.

    Minimised is the weighted mean of the task's loss plus half the penalty times the squared
    kernel, where each feature has been brought to mean 0 and standard deviation 1 (Kornblith
    et al. 2019, arXiv:1805.08974, choose the penalty of such a probe on validation likewise;
    Liu & Nocedal 1989 for L-BFGS, here scipy's).

    Args:
        kind: `classification`, `multi_label` or `regression`.
        features: (n, d) of the training rows.
        targets: (n, k) shares of classes, zeros and ones, or values.
        weights: (n,) of rows in the mean; None weighs all the same.

    Yields:
        A penalty, a kernel (d, k) and a bias (k,), float32, for the features as given.
    """
    x = np.asarray(features, "float64")
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread < 1e-6 * max(1.0, float(np.abs(x).max()))] = 1.0  # says nothing
    x = (x - mean) / spread
    y = np.asarray(targets, "float64")
    share = np.full(len(x), 1.0) if weights is None else np.asarray(weights, "float64")
    share = share / share.sum()
    found = np.zeros((x.shape[1] + 1, y.shape[1]))
    for penalty in PENALTIES:
        found = _minimum(_LOSSES[kind], x, y, share, penalty, found)
        kernel = found[:-1] / spread[:, None]
        yield penalty, kernel.astype("float32"), (found[-1] - mean @ kernel).astype("float32")


def _minimum(
    loss: _Loss,
    x: np.ndarray,
    y: np.ndarray,
    share: np.ndarray,
    penalty: float,
    start: np.ndarray,
) -> np.ndarray:
    def total(flat: np.ndarray) -> tuple[float, np.ndarray]:
        both = flat.reshape(start.shape)
        losses, slopes = loss(x @ both[:-1] + both[-1], y)
        slopes = slopes * share[:, None]
        gradient = np.vstack([x.T @ slopes + penalty * both[:-1], slopes.sum(axis=0)])
        mean = float(share @ losses)
        return mean + penalty / 2 * float((both[:-1] ** 2).sum()), gradient.ravel()

    result = minimize(
        total, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": _ROUNDS}
    )
    return result.x.reshape(start.shape)


def _softmax(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logs = outputs - logsumexp(outputs, axis=1, keepdims=True)
    return -(targets * logs).sum(axis=1), np.exp(logs) - targets


def _sigmoid(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    losses = np.logaddexp(0.0, outputs) - targets * outputs
    slopes = np.exp(-np.logaddexp(0.0, -outputs)) - targets
    return losses.mean(axis=1), slopes / outputs.shape[1]


def _square(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    apart = outputs - targets
    return (apart**2).mean(axis=1), 2 * apart / outputs.shape[1]


_LOSSES: dict[str, _Loss] = {
    "classification": _softmax,
    "multi_label": _sigmoid,
    "regression": _square,
}
