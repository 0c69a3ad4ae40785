"""What training minimises, and what its epochs are judged by."""

from __future__ import annotations

import dataclasses
from typing import Any

from tf_finetune.model import heads
from tf_finetune.model.headed import HeadedTask

# Metrics that are better the larger they are; all others count as errors or losses.
_LARGER_IS_BETTER = ("acc", "auc", "f1", "fbeta", "precision", "recall", "iou", "r2", "cosine")


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
    """`max` or `min`, by the usual names of metrics."""
    return "max" if any(word in monitor.lower() for word in _LARGER_IS_BETTER) else "min"
