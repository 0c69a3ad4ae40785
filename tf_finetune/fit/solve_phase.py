"""A phase on the head alone that is solved, not trained."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from tf_finetune.config import Phase
from tf_finetune.data.labels import classes_of
from tf_finetune.data.pipeline import Store, evaluation_dataset
from tf_finetune.fit.audit import Snapshot
from tf_finetune.fit.examples import Examples, balanced_weights, validation_figures
from tf_finetune.fit.objective import objective_of
from tf_finetune.fit.phase_result import PhaseResult, summary
from tf_finetune.fit.solver import PENALTIES, solutions
from tf_finetune.fit.watching import best_of
from tf_finetune.fit_settings import FitConfig
from tf_finetune.model.freezing import count_parameters
from tf_finetune.model.headed import HeadedTask


def solve_phase(
    task: HeadedTask,
    store: Store,
    labels: np.ndarray,
    splits: dict[str, np.ndarray],
    phase: Phase,
    fit: FitConfig,
    *,
    number: int,
    workdir: Path,
    say: Callable[[str], None] = print,
) -> PhaseResult:
    """Takes the task's head to its optimum under several penalties and keeps the best.

    Nothing is drawn at random: dropout, mixup, R-Drop, averages and the rate have no part in it.
    What is best is decided on validation as in a phase that trains, an epoch being a penalty.

    Args:
        task: whose head is solved; `trainable` has been set.
        store: the head's inputs, one vector a row.
        labels: aligned with the store's rows.
        splits: rows by split.
        phase: its name is told.
        fit: label smoothing and class weights.
        number: of the phase, counted from 1.
        workdir: the run folder.
        say: where lines for people go.
    """
    began = time.perf_counter()
    head, rows = task.head, splits["train"]
    objective = objective_of(task, fit.label_smoothing)
    head.compile(
        loss=objective.loss, metrics=objective.metrics, loss_weights=objective.loss_weights
    )
    trainable, _ = count_parameters(head)
    total = count_parameters(task.network)[1]
    say(
        f"phase {phase.name}: solving for {trainable:,} of {total:,} parameters "
        f"({trainable / total:.1%}) under {len(PENALTIES)} penalties"
    )
    held = evaluation_dataset(store, labels, splits["validation"], batch_size=fit.eval_batch)
    examples = Examples(train={}, steps=1, size=len(rows), validation=held)
    start, snapshot = validation_figures(head, examples), Snapshot(head)
    best = best_of(phase, objective, start, number, workdir)
    best.set_model(head)
    best.on_train_begin()
    weights = None
    if "balanced" in (fit.class_weights, fit.sampling):
        classes = classes_of(labels[rows])
        by_class = balanced_weights(classes)
        weights = np.array([by_class[label] for label in classes.tolist()])
    history: list[dict[str, Any]] = []
    found = solutions(task.kind, store.batch(rows), _targets(task, labels[rows], fit), weights)
    dense = cast(keras.layers.Dense, head.get_layer("logits"))
    for epoch, (penalty, kernel, bias) in enumerate(found, 1):
        dense.kernel.assign(kernel)
        dense.bias.assign(bias)
        figures = validation_figures(head, examples)
        seconds = round(time.perf_counter() - began, 3)
        history.append(
            {"phase": phase.name, "epoch": epoch, "penalty": penalty, **figures, "seconds": seconds}
        )
        best.on_epoch_end(epoch - 1, figures)
    audit = snapshot.check()
    best.restore()
    with (workdir / "metrics.jsonl").open("a") as out:
        out.writelines(json.dumps(row) + "\n" for row in history)
    result = PhaseResult(
        name=phase.name,
        train=phase.train,
        trainable=trainable,
        total=total,
        seconds=round(time.perf_counter() - began, 3),
        first_step_seconds=0.0,
        start=start,
        best_epoch=best.best_epoch,
        history=history,
        audit=audit,
        skipped=[],
    )
    say(summary(result, objective.monitor))
    return result


def _targets(task: HeadedTask, labels: np.ndarray, fit: FitConfig) -> np.ndarray:
    """What the last layer with weights is to give, (n, k)."""
    if task.kind == "regression":  # before it is brought to the unit of the targets
        return (labels.reshape(len(labels), -1) - task.target_mean) / task.target_std
    smoothing = fit.label_smoothing
    if task.kind == "multi_label":
        return labels * (1 - smoothing) + smoothing / 2
    count = len(task.class_names)
    shares = labels if task.soft else np.eye(count)[labels.astype(int)]
    return shares * (1 - smoothing) + smoothing / count
