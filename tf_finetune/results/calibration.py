"""Whether probabilities mean what they say, and the temperature that mends them.

The expected calibration error (ECE) and the temperature are those of Guo et al., "On
Calibration of Modern Neural Networks" (ICML 2017): 15 bins of equal width over the
confidence, each weighed by its rows; one number that divides all logits, fitted by the
log loss on the validation split. The choice of a class never changes by it.

On a few hundred rows the error is far from 0 for a model whose probabilities are right, too.
How far is told by drawing whether each choice is right by its own confidence, time and again
(consistency resampling: Bröcker & Smith, Weather and Forecasting 2007).

With several labels a row, each label of each row is a yes or no of its own, and all of
them count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_finetune.results.wording import table

BINS = 15
METHOD = f"{BINS} bins of equal width, as in Guo et al. (2017)"
_LOWEST, _HIGHEST = 0.05, 20.0
_DRAWS = 500


def sureness(task: str, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How sure the model is of each choice, and whether that is right.

    Args:
        task: `classification` or `multi_label`.
        outputs: (n, k) probabilities.
        labels: (n,) whole numbers, or (n, k) zeros and ones, or shares of classes.

    Returns:
        (m,) confidences and (m,) zeros and ones, of soft labels the shares of what was chosen; m
        is n, or n times k for `multi_label`.
    """
    if task == "multi_label":
        right = (np.asarray(outputs) >= 0.5) == (np.asarray(labels) >= 0.5)
        return _confidence(task, outputs), right.astype("float64").ravel()
    chosen = outputs.argmax(axis=1)
    right = labels[np.arange(len(labels)), chosen] if labels.ndim == 2 else chosen == labels
    return _confidence(task, outputs), right.astype("float64")


def _confidence(task: str, outputs: np.ndarray) -> np.ndarray:
    outputs = np.asarray(outputs, "float64")
    if task == "multi_label":
        return np.maximum(outputs, 1 - outputs).ravel()
    return outputs.max(axis=1)


def reliability(task: str, outputs: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """The bins that are not empty: `low`, `high`, `rows`, mean `confidence`, `accuracy`."""
    sure, right = sureness(task, outputs, labels)
    places = _bins(sure)
    rows = []
    for place in np.unique(places):
        inside = places == place
        rows.append(
            {
                "low": float(place / BINS),
                "high": float((place + 1) / BINS),
                "rows": int(inside.sum()),
                "confidence": float(sure[inside].mean()),
                "accuracy": float(right[inside].mean()),
            }
        )
    return rows


def error(task: str, outputs: np.ndarray, labels: np.ndarray) -> float:
    """The expected calibration error, 0 to 1; 0.03 is three points off on average."""
    rows = reliability(task, outputs, labels)
    total = sum(row["rows"] for row in rows)
    off = sum(row["rows"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    return float(off / total)


def by_chance(task: str, outputs: np.ndarray) -> dict[str, float]:
    """The error that a model whose probabilities are right shows on as many rows.

    Args:
        task: `classification` or `multi_label`.
        outputs: (n, k) probabilities.

    Returns:
        The `mean` over draws, and `most`: what 95 of 100 draws do not exceed.
    """
    sure = _confidence(task, outputs)
    places, random, found = _bins(sure), np.random.default_rng(0), []
    for _ in range(_DRAWS):
        off = sure - (random.random(sure.size) < sure)
        found.append(np.abs(np.bincount(places, off)).sum() / sure.size)
    return {"mean": float(np.mean(found)), "most": float(np.quantile(found, 0.95))}


def _bins(sure: np.ndarray) -> np.ndarray:
    return np.minimum((sure * BINS).astype(int), BINS - 1)


def probabilities(task: str, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """What a model of this temperature gives for these logits, float64."""
    from scipy.special import expit, softmax

    scaled = np.asarray(logits, "float64") / temperature
    return softmax(scaled, axis=1) if task == "classification" else expit(scaled)


def log_loss(task: str, logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """The mean log loss of logits divided by a temperature; of several labels, of each."""
    scaled = np.asarray(logits, "float64") / temperature
    if task == "multi_label":
        signs = np.where(np.asarray(labels) >= 0.5, 1.0, -1.0)
        return float(np.logaddexp(0, -signs * scaled).mean())
    from scipy.special import logsumexp

    if labels.ndim == 2:
        likely = (labels * scaled).sum(axis=1)
    else:
        likely = scaled[np.arange(len(labels)), labels]
    return float((logsumexp(scaled, axis=1) - likely).mean())


def fit_temperature(task: str, logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the least log loss.

    Where all choices are right the loss only says to be surer and surer; there is
    nothing to learn from then, and the temperature is 1.

    Args:
        task: `classification` or `multi_label`.
        logits: (n, k), of rows that were not trained on.
        labels: as in `sureness`.

    Returns:
        A number from 0.05 to 20.
    """
    from scipy.optimize import minimize_scalar

    _, right = sureness(task, probabilities(task, logits), labels)
    if (right == 1).all():
        return 1.0
    # In one over the temperature the loss is convex: the search cannot end elsewhere.
    found = minimize_scalar(
        lambda inverse: log_loss(task, logits, labels, 1 / inverse),
        bounds=(1 / _HIGHEST, 1 / _LOWEST),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(1 / found.x)


def recalibrated(
    task: str, outputs: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Probabilities by split with a temperature of their own, fitted on `validation`."""
    from scipy.special import logit

    def logits_of(shares: np.ndarray) -> np.ndarray:
        number, shares = np.finfo("float32"), np.asarray(shares, "float64")
        if task == "classification":
            return np.log(np.maximum(shares, number.tiny))
        return logit(np.clip(shares, number.tiny, 1 - number.epsneg))

    logits = {split: logits_of(shares) for split, shares in outputs.items()}
    temperature = fit_temperature(task, logits["validation"], labels["validation"])
    return {k: probabilities(task, found, temperature) for k, found in logits.items()}


def account(
    task: str, logits: np.ndarray, labels: np.ndarray, temperature: float
) -> dict[str, Any]:
    """What the card says: `ece` and `log_loss` `before` and `after`, the bins after.

    And `by_chance`, but for shares of classes.

    Args:
        task: `classification` or `multi_label`.
        logits: (n, k) of the test rows.
        labels: of the test rows.
        temperature: fitted on other rows.
    """
    found: dict[str, Any] = {"temperature": temperature, "method": METHOD}
    for name, t in (("before", 1.0), ("after", temperature)):
        found[name] = {
            "ece": error(task, probabilities(task, logits, t), labels),
            "log_loss": log_loss(task, logits, labels, t),
        }
    outputs = probabilities(task, logits, temperature)
    if np.ndim(labels) == 1 or task == "multi_label":  # how far shares scatter is not known
        found["by_chance"] = by_chance(task, outputs)
    return found | {"reliability": reliability(task, outputs, labels)}


def chance(found: Mapping[str, Any]) -> str:
    """A sentence on how much of the error in `account` may be chance."""
    if "by_chance" not in found:
        return "It is held against the shares of the chosen classes."
    mean, most = found["by_chance"]["mean"], found["by_chance"]["most"]
    return (
        f"On so many rows probabilities that are right show {mean:.3f} by chance alone, and in 95 "
        f"of 100 cases no more than {most:.3f}."
    )


def section(card: Mapping[str, Any]) -> str:
    """What `report.md` says of it; empty for regression."""
    if "calibration" not in card:
        return ""
    found = card["calibration"]
    before, after = found["before"]["ece"], found["after"]["ece"]
    text = f"### Are the probabilities right?\n\nCalibration error {after:.3f}"
    if found["temperature"] != 1:
        text += (
            f", before {before:.3f}: logits are divided by {found['temperature']:.3f}, fitted on "
            "the validation split, in the model that was saved and exported. No choice changes "
            "by it"
        )
    head = ["sure between", "rows", "mean confidence", "were right"]
    rows = [
        [
            f"{row['low']:.0%} and {row['high']:.0%}",
            row["rows"],
            f"{row['confidence']:.1%}",
            f"{row['accuracy']:.1%}",
        ]
        for row in found["reliability"]
    ]
    return f"{text}. {chance(found)} ({found['method']}.)\n\n{table(head, rows)}"
