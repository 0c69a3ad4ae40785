"""One phase: freeze, optimiser, compile, fit, audit."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_finetune.config import FitConfig, Phase
from tf_finetune.data.pipeline import Store, evaluation_dataset, training_dataset
from tf_finetune.errors import UserError
from tf_finetune.fit.audit import Audit, Snapshot
from tf_finetune.fit.callbacks import MetricsLog, Progress
from tf_finetune.fit.checkpoints import KeepBest
from tf_finetune.fit.optimizers import LayerwiseAdamW, WarmupLinear
from tf_finetune.model import heads
from tf_finetune.model.freezing import count_parameters

OptimizerState = dict[str, tuple[int, np.ndarray, np.ndarray]]


@dataclasses.dataclass(slots=True, kw_only=True)
class FitData:
    """The examples of a phase.

    Attributes:
        store: inputs by row.
        labels: aligned with the store's rows.
        train: rows to train on.
        validation: rows to judge epochs by.
    """

    store: Store
    labels: np.ndarray
    train: np.ndarray
    validation: np.ndarray


@dataclasses.dataclass(slots=True, kw_only=True)
class PhaseResult:
    """What happened in a phase.

    Attributes:
        trainable: parameters that trained, of `total`.
        seconds: of the whole phase, with validation and checkpoints.
        start: validation figures before the first epoch.
        best_epoch: counted from 1; its weights are the phase's result. 0 where no
            epoch was better than the start, whose weights are then kept.
        history: one dict an epoch, as in `metrics.jsonl`.
    """

    name: str
    train: str
    trainable: int
    total: int
    seconds: float
    first_step_seconds: float
    start: dict[str, float]
    best_epoch: int
    history: list[dict]
    audit: Audit


def make_optimizer(phase: Phase, fit: FitConfig, steps_per_epoch: int) -> LayerwiseAdamW:
    """The optimiser of a phase: warm-up, then linear decay to 0 over its epochs."""
    total = steps_per_epoch * phase.epochs
    return LayerwiseAdamW(
        WarmupLinear(phase.learning_rate, int(phase.warmup * total), total),
        weight_decay=fit.weight_decay,
        global_clipnorm=fit.clip or None,
    )


def compile_phase(
    network: keras.Model, phase: Phase, fit: FitConfig, kind: str, examples: int
) -> LayerwiseAdamW:
    """Compiles a network for a phase and returns its optimiser, built.

    `trainable` must have been set before: Keras reads it here.
    """
    optimizer = make_optimizer(phase, fit, math.ceil(examples / fit.global_batch))
    network.compile(
        keras.optimizers.LossScaleOptimizer(optimizer) if fit.precision == "float16" else optimizer,
        loss=heads.loss(kind, fit.label_smoothing),
        # In squares of the targets' spread: clipping, and Adam's smallest step, must
        # not depend on the unit that they are counted in.
        loss_weights=network.get_layer("values").scale ** -2 if kind == "regression" else None,
        metrics=heads.metrics(kind),
        jit_compile=False,
    )
    optimizer.build(network.trainable_variables)
    return optimizer


def fit_phase(
    network: keras.Model,
    data: FitData,
    phase: Phase,
    fit: FitConfig,
    *,
    kind: str,
    workdir: Path,
    number: int,
    state: OptimizerState,
    full: keras.Model | None = None,
    say: Callable[[str], None] = print,
) -> PhaseResult:
    """Trains a network, whose `trainable` is set, for one phase.

    Args:
        network: from a store's batches to logits; ends with the weights of the
            best epoch.
        data: what to train on.
        phase: what to do.
        fit: batch size, clipping and the like.
        kind: the task, which decides loss and metric.
        workdir: the run folder, for checkpoints and logs.
        number: of the phase, counted from 1.
        state: the optimiser's state by variable path; read, then brought up to date.
        full: the whole network where `network` is only its unfrozen end; for the
            counts that are shown.
        say: where lines for people go.

    Raises:
        AuditError: if a frozen variable changed or a trained one did not.
        UserError: if training diverged in its first epoch.
    """
    began = time.perf_counter()
    optimizer = compile_phase(network, phase, fit, kind, len(data.train))
    optimizer.load_state(state)
    trainable, _ = count_parameters(network)
    total = count_parameters(full or network)[1]
    say(
        f"phase {phase.name}: trainable {trainable:,} of {total:,} "
        f"({trainable / total:.1%}), rate {phase.learning_rate:g}"
    )
    title = re.sub(r"[^\w-]+", "-", f"{number}-{phase.name}")
    validation = evaluation_dataset(
        data.store, data.labels, data.validation, batch_size=fit.eval_batch
    )
    found = network.evaluate(validation, return_dict=True, verbose=0)
    start = {f"val_{key}": float(value) for key, value in found.items()}
    best = KeepBest(workdir / "checkpoints" / title, *heads.monitor(kind), phase.patience, start)
    log = MetricsLog(workdir / "metrics.jsonl", phase.name, len(data.train))
    callbacks: list[Any] = [
        Progress(phase.name, len(data.train), fit.global_batch),
        log,
        keras.callbacks.TensorBoard(workdir / "logs" / title, write_graph=False),
        best,
    ]
    snapshot = Snapshot(network)
    network.fit(
        training_dataset(
            data.store, data.labels, data.train, batch_size=fit.global_batch, seed=fit.seed
        ),
        steps_per_epoch=math.ceil(len(data.train) / fit.global_batch),
        epochs=phase.epochs,
        validation_data=validation,
        callbacks=callbacks,
        shuffle=False,  # the dataset has its own order
        verbose=0,
    )
    audit = snapshot.check()
    state.update(optimizer.state())
    if not best.finite_epochs:
        raise UserError(
            f"phase {phase.name}: training has diverged, its validation loss is no number. Lower "
            f"its learning rate {phase.learning_rate:g}, or set --config.fit.precision=float32."
        )
    best.restore()
    result = PhaseResult(
        name=phase.name,
        train=phase.train,
        trainable=trainable,
        total=total,
        seconds=round(time.perf_counter() - began, 3),
        first_step_seconds=round(log.first_step_seconds or 0.0, 3),
        start=start,
        best_epoch=best.best_epoch,
        history=log.rows,
        audit=audit,
    )
    say(_summary(result, heads.monitor(kind)[0]))
    return result


def _summary(result: PhaseResult, monitor: str) -> str:
    row = result.history[result.best_epoch - 1] if result.best_epoch else result.start
    best = (
        f"best of {len(result.history)} epochs is {result.best_epoch}"
        if result.best_epoch
        else f"none of {len(result.history)} epochs was better than the start, which is kept"
    )
    return (
        f"phase {result.name}: {best}, {monitor} {row[monitor]:.4f}, "
        f"val_loss {row['val_loss']:.4f}; "
        f"{result.seconds:.0f} s; audit: {result.audit.trained_moved} variables moved, "
        f"{result.audit.frozen_unchanged} frozen bit-identical"
    )
