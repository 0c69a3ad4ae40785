"""How much better one model is than another on the same rows, whatever the task."""

from __future__ import annotations

from typing import Any

import numpy as np

from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.results import evaluate
from tf_finetune.results.response_scores import gain_of_responses
from tf_finetune.results.tag_scores import gain_of_counts, right_rows


def gain(
    task: str, better: np.ndarray, worse: np.ndarray, labels: np.ndarray, **how: Any
) -> dict[str, Any]:
    """As `evaluate.gain`, also of what is kept of tags and of responses: counts (n, 3) a row."""
    if task == TOKENS:
        return gain_of_counts(better, worse, **how)
    if task == LANGUAGE:
        return gain_of_responses(better, worse, **how)
    return evaluate.gain(task, better, worse, labels, **how)


def goodness(task: str, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """(n,) 1 for each row that is right as a whole, else 0; None where rows are more or less so."""
    if task in ("regression", LANGUAGE):
        return None
    if task == TOKENS:
        return right_rows(outputs)
    return evaluate.row_goodness(task, outputs, labels)
