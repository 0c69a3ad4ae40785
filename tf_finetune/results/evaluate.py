"""How good the outputs are, with intervals, and what to hold beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_finetune.errors import UserError
from tf_finetune.results.resampling import F1, middle, one_hot, resamples

# The figures that get an interval, by task; the first is the one that counts.
INTERVALS = {
    "classification": ("accuracy", "macro_f1"),
    "multi_label": ("subset_accuracy", "macro_f1", "micro_f1"),
    "regression": ("mae", "r2"),
}
# A matrix of more classes is larger than all the rest of a card.
_MOST_CONFUSED = 200


def score(
    task: str,
    outputs: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores a model's outputs against the labels.

    Macro-F1 is the mean over the classes that stand in the labels or in the
    predictions, as scikit-learn has it. An interval holds the middle 95% of the
    figure over `bootstrap` resamples of the rows.

    Args:
        task: `classification`, `multi_label` or `regression`.
        outputs: (n, k) probabilities, (n, k) scores or (n, 1) values.
        labels: (n,) whole numbers, (n, k) zeros and ones, or (n,) numbers.
        class_names: k names; not used for regression.
        bootstrap: resamples behind each interval.
        seed: of the resampling.

    Returns:
        Figures that can be written as JSON. Classification: `accuracy`,
        `macro_f1`, `log_loss`, `per_class`, and of up to 200 classes `confusion` (rows are
        the truth).
        Multi-label: `subset_accuracy`, `micro_f1`, `macro_f1`, `per_class`.
        Regression: `mae`, `rmse`, `r2` (None where all labels are equal). All:
        `rows`, and `NAME_interval` for the figures in `INTERVALS`.

    Raises:
        UserError: if there are no rows, or outputs are not finite numbers.
    """
    outputs = _checked(outputs, labels)
    if task == "regression":
        return _score_regression(outputs, labels, bootstrap, seed)
    if task == "multi_label":
        return _score_multi_label(outputs, labels, class_names, bootstrap, seed)
    return _score_classes(outputs, labels, class_names, bootstrap, seed)


def majority_baseline(
    task: str,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    class_names: Sequence[str],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores the guess that knows only how often each label stands in training.

    It gives every test row the training frequencies of the classes (so its
    choice is the most frequent one), or for regression the training mean.

    Args:
        task: as in `score`.
        train_labels: of the training split, in the form that `score` takes.
        test_labels: of the test split.
        class_names: as in `score`.
        bootstrap: as in `score`.
        seed: as in `score`.

    Returns:
        What `score` returns.
    """
    guess = _frequencies(task, train_labels, len(class_names))
    outputs = np.tile(guess, (len(test_labels), 1))
    return score(task, outputs, test_labels, class_names, bootstrap=bootstrap, seed=seed)


def gain(
    task: str,
    outputs: np.ndarray,
    baseline_outputs: np.ndarray,
    labels: np.ndarray,
    *,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How much better a model is than a baseline on the same rows.

    Rows are resampled together for both, so the interval is of the difference
    itself; two intervals that overlap say much less.

    Args:
        task: as in `score`.
        outputs: of the model.
        baseline_outputs: of the baseline, for the same rows.
        labels: as in `score`.
        bootstrap: as in `score`.
        seed: as in `score`.

    Returns:
        `figure`, its name; `value` and `interval` of model minus baseline for
        accuracies, of baseline minus model for `mae`: above 0 is better.
    """
    better = row_goodness(task, _checked(outputs, labels), labels)
    worse = row_goodness(task, _checked(baseline_outputs, labels), labels)
    values, counts = np.unique(better - worse, return_counts=True)
    rounds = np.concatenate([w @ values for w in resamples(counts, bootstrap, seed)])
    return {
        "figure": INTERVALS[task][0],
        "value": float(np.mean(better - worse)),
        "interval": middle(rounds / len(labels)),
    }


def row_goodness(task: str, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) of each row: 1 where the choice is right, all labels of a row; else 0.

    For regression the absolute error, negative: more is better.

    Args:
        task: as in `score`.
        outputs: as in `score`.
        labels: as in `score`.
    """
    outputs = np.asarray(outputs)
    if task == "regression":
        return -np.abs(outputs.reshape(-1) - np.asarray(labels, "float64").reshape(-1))
    if task == "multi_label":
        return ((outputs >= 0.5) == (np.asarray(labels) >= 0.5)).all(axis=1).astype("float64")
    return (outputs.argmax(axis=1) == labels).astype("float64")


def card(
    task: str,
    class_names: Sequence[str],
    test: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, Any]],
    **facts: Any,
) -> dict[str, Any]:
    """The run's final card: `{"test": {"accuracy": ...}, "baselines": {...}, ...}`.

    Args:
        task: the task's name.
        class_names: in the order of the outputs.
        test: what `score` returned for the test split.
        baselines: the same by baseline, as `majority` and `probe`.
        **facts: more top-level entries, as `gain`, `validation` or `seconds`.

    Returns:
        A dictionary of plain Python values that JSON can hold.
    """
    made = {
        "task": task,
        "class_names": list(class_names),
        "test": dict(test),
        "baselines": {name: dict(scores) for name, scores in baselines.items()},
        **facts,
    }
    return json.loads(json.dumps(made, default=_plain, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return os.fspath(value)


def _frequencies(task: str, train_labels: np.ndarray, k: int) -> np.ndarray:
    if task == "classification":
        return np.bincount(train_labels, minlength=k) / len(train_labels)
    return np.atleast_1d(np.mean(train_labels, axis=0, dtype="float64"))


def _checked(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    outputs = np.asarray(outputs, "float64")
    if len(labels) == 0:
        raise UserError("There are no rows to evaluate on; make config.data.test larger.")
    if len(outputs) != len(labels):
        raise ValueError(f"{len(outputs)} outputs for {len(labels)} labels.")
    bad = int(np.sum(~np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)))
    if bad:
        raise UserError(
            f"The model gives no finite numbers for {bad:,} of {len(outputs):,} rows: training "
            "has diverged. Lower config.fit.learning_rate, or set "
            "--config.fit.precision=float32."
        )
    return outputs


def _score_classes(
    outputs: np.ndarray, labels: np.ndarray, names: Sequence[str], bootstrap: int, seed: int
) -> dict[str, Any]:
    n, k = outputs.shape
    pairs = np.asarray(labels, "int64") * k + outputs.argmax(axis=1)
    # A resample of rows is a multinomial draw over the cells that are not empty.
    places, cells = np.unique(pairs, return_counts=True)
    truth, chosen = np.divmod(places, k)
    each = F1(one_hot(truth, k), one_hot(chosen, k))
    right = (truth == chosen).astype("float64")
    likely = np.clip(outputs[np.arange(n), labels], np.finfo("float64").eps, 1.0)
    rounds = [
        (weights @ right / n, each.macro(weights)) for weights in resamples(cells, bootstrap, seed)
    ]
    return {
        "rows": n,
        "accuracy": float(cells @ right / n),
        "macro_f1": float(each.macro(cells)),
        "log_loss": float(-np.mean(np.log(likely))),
        **_intervals("classification", rounds),
        "per_class": each.table(cells, names),
        **({"confusion": _confusion(pairs, k)} if k <= _MOST_CONFUSED else {}),
    }


def _confusion(pairs: np.ndarray, k: int) -> list[list[int]]:
    return np.bincount(pairs, minlength=k * k).reshape(k, k).tolist()


def _score_multi_label(
    outputs: np.ndarray, labels: np.ndarray, names: Sequence[str], bootstrap: int, seed: int
) -> dict[str, Any]:
    n = len(labels)
    truth, chosen = np.asarray(labels) >= 0.5, outputs >= 0.5
    each, exact = F1(truth, chosen), (truth == chosen).all(axis=1).astype("float64")
    ones = np.ones(n)
    rounds = [
        (weights @ exact / n, each.macro(weights), each.micro(weights))
        for weights in resamples(np.ones(n, "int64"), bootstrap, seed)
    ]
    return {
        "rows": n,
        "subset_accuracy": float(exact.mean()),
        "micro_f1": float(each.micro(ones)),
        "macro_f1": float(each.macro(ones)),
        **_intervals("multi_label", rounds),
        "per_class": each.table(ones, names),
    }


def _score_regression(
    outputs: np.ndarray, labels: np.ndarray, bootstrap: int, seed: int
) -> dict[str, Any]:
    truth = np.asarray(labels, "float64").reshape(-1)
    errors = outputs.reshape(-1) - truth
    # Centred, so that the variance below loses no digits.
    truth = truth - truth.mean()
    sums = np.stack([np.abs(errors), errors**2, truth, truth**2], axis=1)
    n = len(truth)
    rounds = [
        (means[..., 0], _r2(means))
        for weights in resamples(np.ones(n, "int64"), bootstrap, seed)
        for means in [weights @ sums / n]
    ]
    means = sums.mean(axis=0)
    return {
        "rows": n,
        "mae": float(means[0]),
        "rmse": float(np.sqrt(means[1])),
        "r2": _number(_r2(means)),
        **_intervals("regression", rounds),
    }


def _r2(means: np.ndarray) -> np.ndarray:
    variance = means[..., 3] - means[..., 2] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of equal targets rounding leaves a little.
        least = np.maximum(1e-10 * means[..., 3], 1e-300)
        return np.where(variance > least, 1 - means[..., 1] / variance, np.nan)


def _intervals(task: str, rounds: Sequence[tuple[np.ndarray, ...]]) -> dict[str, Any]:
    return {
        f"{name}_interval": middle(np.concatenate(values))
        for name, values in zip(INTERVALS[task], zip(*rounds, strict=True), strict=True)
    }


def _number(value: np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None
