"""How good a model is where it may leave the rows of which it is least sure to a person."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_finetune.results.evaluate import row_goodness
from tf_finetune.results.slices import wilson

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1)


def selective(task: str, outputs: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy by coverage (El-Yaniv & Wiener 2010), the surest rows first.

    With several labels a row, a row is as sure as its least sure label.

    Args:
        task: `classification` or `multi_label`.
        outputs: (n, k) probabilities.
        labels: as in `evaluate.score`.

    Returns:
        Dicts of `coverage`, `rows`, `accuracy`, its `interval`, and the `threshold`: the
        confidence of the least sure row that is kept.
    """
    outputs = np.asarray(outputs, "float64")
    each = np.maximum(outputs, 1 - outputs) if task == "multi_label" else outputs
    sure = each.min(axis=1) if task == "multi_label" else each.max(axis=1)
    order = np.argsort(-sure, kind="stable")
    ordered = row_goodness(task, outputs, labels)[order]
    found = []
    for coverage in COVERAGES:
        rows = round(coverage * len(ordered))
        if rows:
            count = int(ordered[:rows].sum())
            found.append(
                {
                    "coverage": coverage,
                    "rows": rows,
                    "accuracy": count / rows,
                    "interval": wilson(count, rows),
                    "threshold": float(sure[order[rows - 1]]),
                }
            )
    return found
