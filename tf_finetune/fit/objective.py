"""What training minimises, and what its epochs are judged by."""

from __future__ import annotations

import dataclasses
from typing import Any

from tf_finetune.errors import UserError
from tf_finetune.model import heads
from tf_finetune.model.headed import HeadedTask

# What stands in the names of metrics that are better the larger, or the smaller, they are.
_LARGER_IS_BETTER = (
    *("acc", "auc", "f1", "fbeta", "precision", "recall", "iou", "io_u", "r2", "cosine", "dice"),
    *("sensitivity", "specificity", "correlation", "true_positive", "true_negative"),
)
_SMALLER_IS_BETTER = (
    *("err", "mae", "mse", "msle", "mape", "hinge", "huber", "cosh", "poisson", "divergence"),
    *("entropy", "perplexity", "distance", "false_positive", "false_negative", "nll", "brier"),
)


@dataclasses.dataclass(slots=True, kw_only=True)
class Objective:
    """Loss and metrics of a phase.

    Attributes:
        loss: as in `keras.Model.compile`.
        metrics: as in `keras.Model.compile`.
        monitor: the figure that decides which epoch was best: `val_loss`, or `val_`
            and the name of a metric.
        mode: whether it is best at its `max` or `min`.
        loss_weights: as in `keras.Model.compile`.
    """

    loss: Any
    metrics: Any = None
    monitor: str = "val_loss"
    mode: str = "min"
    loss_weights: Any = None


def objective_of(task: HeadedTask, label_smoothing: float) -> Objective:
    """Loss and metrics of a task."""
    monitor, mode = heads.monitor(task.kind)
    return Objective(
        loss=heads.loss(task.kind, label_smoothing, task.words, soft=task.soft),
        metrics=heads.metrics(task.kind, soft=task.soft),
        monitor=monitor,
        mode=mode,
        # In squares of the targets' spread: clipping, and Adam's smallest step, must
        # not depend on the unit that they are counted in.
        loss_weights=task.target_std**-2 if task.kind == "regression" else None,
    )


def mode_of(monitor: str) -> str:
    """`max` or `min`, by the usual names of metrics.

    Raises:
        UserError: for a name that does not tell.
    """
    name = monitor.lower()
    if name.endswith("loss"):
        return "min"
    for mode, words in (("max", _LARGER_IS_BETTER), ("min", _SMALLER_IS_BETTER)):
        if any(word in name for word in words):
            return mode
    raise UserError(
        f'monitor is "{monitor}", whose name does not tell whether more of it is better; set mode '
        "to max or min."
    )
