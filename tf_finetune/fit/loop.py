"""One phase: optimiser, compile, fit, keep the best, audit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.fit.examples import Examples
from tf_finetune.fit.executions import LastExecution
from tf_finetune.fit.objective import Objective
from tf_finetune.fit.phase_result import PhaseResult, summary
from tf_finetune.fit.resuming import SaveState, Saving, going_on, start_of_phase
from tf_finetune.fit.spike_guard import Diverged
from tf_finetune.fit.steps import KERAS, Step, training_by
from tf_finetune.fit.watching import watching
from tf_finetune.fit_settings import FitConfig
from tf_finetune.model.blocks import Groups
from tf_finetune.model.freezing import count_parameters
from tf_finetune.model.slicing import Suffix
from tf_finetune.optim.carry import State, carried_into, state_of
from tf_finetune.optim.l2_sp import Anchors
from tf_finetune.optim.optimizers import LayerwiseAdamW, depth_multipliers
from tf_finetune.optim.schedules import rate_schedule


def rate_of(phase: Phase, steps: int) -> Any:
    """The schedule of a phase's rate, or its constant rate for `plateau`.

    Args:
        phase: of the run.
        steps: updates an epoch.

    Raises:
        UserError: if the warm-up leaves no step to train at the full rate.
    """
    if phase.schedule == "plateau":
        return phase.learning_rate
    total = steps * phase.epochs
    return rate_schedule(phase.schedule, phase.learning_rate, int(phase.warmup * total), total)


def adamw_of(
    phase: Phase,
    steps: int,
    groups: Groups,
    *,
    weight_decay: float,
    clip: float,
    l2_sp: float = 0.0,
    anchors: Anchors = (),
) -> LayerwiseAdamW:
    """The default optimiser of a phase, not built yet.

    Args:
        phase: of the run.
        steps: updates an epoch.
        groups: of the whole model; their depth decides over `phase.layer_decay`.
        weight_decay: decoupled.
        clip: global norm that gradients are clipped to; 0 means no clipping.
        l2_sp: as in `LayerwiseAdamW`.
        anchors: as in `LayerwiseAdamW`, from the start of the run.
    """
    return LayerwiseAdamW(
        rate_of(phase, steps),
        weight_decay=weight_decay,
        l2_sp=l2_sp,
        anchors=anchors,
        global_clipnorm=clip or None,
        multipliers=depth_multipliers(groups, phase.layer_decay) if phase.layer_decay < 1 else (),
    )


def run_adamw(
    phase: Phase, steps: int, groups: Groups, fit: FitConfig, anchors: Anchors
) -> LayerwiseAdamW:
    """The optimiser of a run's phase, by the run's settings; else as `adamw_of`."""
    return adamw_of(
        phase,
        steps,
        groups,
        weight_decay=fit.weight_decay,
        clip=fit.clip,
        l2_sp=fit.l2_sp,
        anchors=anchors,
    )


def compile_phase(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    objective: Objective,
    steps_per_execution: int = 1,
) -> None:
    """Compiles a model for a phase and builds its optimiser.

    `trainable` must have been set before: Keras reads it here. Where the model
    computes in float16, the loss is scaled.
    """
    for metric in keras.tree.flatten(objective.metrics):
        if isinstance(metric, keras.metrics.Metric):
            # Keras's first `evaluate` does not, and would count on from an earlier phase.
            metric.reset_state()
    half = any(layer.dtype_policy.compute_dtype == "float16" for layer in model._flatten_layers())
    model.compile(
        keras.optimizers.LossScaleOptimizer(optimizer) if half else optimizer,
        loss=objective.loss,
        loss_weights=objective.loss_weights,
        metrics=objective.metrics,
        steps_per_execution=steps_per_execution,
        jit_compile=False,
    )
    # With what scales the loss, which has a state too.
    model.optimizer.build(model.trainable_variables)


def fit_phase(
    model: keras.Model,
    examples: Examples,
    phase: Phase,
    *,
    objective: Objective,
    optimizer: keras.optimizers.Optimizer,
    state: State,
    number: int,
    workdir: Path | None = None,
    full: keras.Model | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    first_epoch: int = 0,
    step: Step = KERAS,
    spike_guard: int = 0,
    ema: float = 0.0,
    strict: bool = True,
    steps_per_execution: int = 1,
    saving: Saving | None = None,
    say: Callable[[str], None] = print,
) -> PhaseResult:
    """Trains a model, whose `trainable` is set, for one phase.

    Args:
        model: ends with the weights of the best epoch, also where training fails.
        examples: what to train on.
        phase: what to do.
        objective: loss, metrics, and what is best.
        optimizer: not built yet.
        state: the optimiser's state by variable; read, then brought up to date.
        number: of the phase, counted from 1.
        workdir: the run folder, for checkpoints and logs; None writes nothing.
        full: the whole network where `model` is only its unfrozen end; for the
            counts that are shown.
        callbacks: more of them, for `fit`.
        first_epoch: what `fit` counts the phase's first epoch as, from 0.
        step: how an update is made of a batch.
        spike_guard: how often to go back when the loss blows up, as in `SpikeGuard`.
        ema: momentum of the averaged weights that epochs are judged by and end with, as
            in `AveragedWeights`; 0 means none.
        strict: a variable that was to train but did not move fails the phase, rather
            than being told of.
        steps_per_execution: updates in one call, at whose end callbacks are called.
        saving: saves the phase, and knows where it goes on; `examples` begin there.
        say: where lines for people go.

    Raises:
        AuditError: if a frozen variable changed or, where strict, a trained one did not.
        Diverged: a `UserError`, if training did.
    """
    began = time.perf_counter()
    compile_phase(model, optimizer, objective, steps_per_execution)
    variables = (full or model).variables
    carried_into(optimizer, state, variables)
    trainable, _ = count_parameters(model)
    total = count_parameters(full or model)[1]
    say(
        f"phase {phase.name}: trainable {trainable:,} of {total:,} "
        f"({trainable / total:.1%}), rate {phase.learning_rate:g}, "
        f"up to {phase.epochs} x {examples.steps} updates"
    )
    middle = saving.middle_of(number) if saving else None
    # What trains on a cut is proved, and kept, as part of the whole.
    whole = full if isinstance(model, Suffix) else None
    start, snapshot = start_of_phase(model, examples, middle, whole)
    if start and objective.monitor not in start:
        raise UserError(
            f'monitor is "{objective.monitor}"; of this model it can be {", ".join(sorted(start))}.'
        )
    if start and isinstance(start[objective.monitor], list):
        raise UserError(
            f'monitor is "{objective.monitor}", a metric with a number for each class, which do '
            "not order epochs; choose another, or have the metric average (average='macro')."
        )
    seen = watching(
        phase,
        examples,
        objective,
        start,
        number,
        workdir,
        whole=whole,
        ema=ema,
        spike_guard=spike_guard,
        say=say,
    )
    best, log = seen.best, seen.log
    began -= middle.facts["seconds"] if middle else 0.0
    also = [*seen.all, *callbacks]
    if steps_per_execution > 1:
        also.append(LastExecution(examples.steps, steps_per_execution))
    if saving:
        also.append(
            SaveState(saving, number, seen, snapshot, start, examples, full or model, began)
        )
    try:
        held = saving.stop.held() if saving else contextlib.nullcontext()
        with training_by(model, step), held:
            model.fit(
                **examples.train,
                **going_on(model, also, middle, examples.steps, first_epoch, phase.epochs),
                validation_data=examples.validation,
                validation_batch_size=examples.batch_size,
                verbose=0,
            )
        audit = snapshot.check(strict=strict)
        if not best.finite_epochs:
            raise Diverged(
                "training has diverged, its loss is no number. Lower the learning_rate, clip "
                "gradients, or compute in float32."
            )
    except UserError as error:
        title = f"phase {phase.name}, learning_rate {phase.learning_rate:g}"
        raise type(error)(f"{title}: {error}") from None
    finally:
        best.restore()
    for key, value in state_of(optimizer, variables).items():
        # What has diverged, and went back to its best epoch, begins anew.
        if all(np.isfinite(part).all() for part in keras.tree.flatten(value)):
            state[key] = value
        else:
            state.pop(key, None)
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
        skipped=seen.guard.skipped if seen.guard else [],
    )
    say(summary(result, objective.monitor))
    return result
