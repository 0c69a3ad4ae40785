"""Phases for a Keras model that the user has built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.config_checks import PRECISIONS
from tf_finetune.errors import UserError
from tf_finetune.fit.audit import may_change
from tf_finetune.fit.data_copy import first_inputs
from tf_finetune.fit.distribution import check_batch_norms, refuse_unsound
from tf_finetune.fit.examples import given_examples
from tf_finetune.fit.kept_arrays import kept_arrays
from tf_finetune.fit.loop import adamw_of, compile_phase, fit_phase, rate_of
from tf_finetune.fit.loss_checks import check_loss, labels_explained
from tf_finetune.fit.mixup import place_of
from tf_finetune.fit.objective import Objective, mode_of
from tf_finetune.fit.phase_result import PhaseResult
from tf_finetune.fit.phased_checks import (
    check_averages,
    check_callbacks,
    check_l2_sp,
    check_validation,
    decay_and_norm,
    fewest_epochs,
)
from tf_finetune.fit.phases import phases_of, repeated
from tf_finetune.fit.precision import body_computing_in, check_precision, resolve
from tf_finetune.fit.recompute import check_recomputable, recomputed_blocks
from tf_finetune.fit.service import served
from tf_finetune.fit.step_checks import check_batch, check_noise, check_step
from tf_finetune.fit.steps import Step
from tf_finetune.model.blocks import Groups, layer_groups
from tf_finetune.model.digests import remember
from tf_finetune.model.flow import graph_of
from tf_finetune.model.freezing import drops, frozen_dropout_off, lora_layers, set_trainable
from tf_finetune.model.quantised import guard_saving
from tf_finetune.optim.carry import State, another
from tf_finetune.optim.l2_sp import anchors_of
from tf_finetune.optim.schedules import check_warm_up
from tf_finetune.optim.strategies import check_strategy
from tf_finetune.phase_checks import check_phases, check_tunes_blocks
from tf_finetune.value_checks import fraction, one_of, whole_number


@dataclasses.dataclass(slots=True, kw_only=True)
class PhasedFit:
    """What `fit_phases` gives back.

    Attributes:
        history: one dict an epoch over all phases; `epoch` counts on from 1.
        phases: what each phase trained, its best epoch and its audit.
    """

    history: list[dict[str, Any]]
    phases: list[PhaseResult]


def fit_phases(
    model: keras.Model,
    train: Any,
    validation: Any = None,
    phases: Sequence[Phase] | str = (),
    *,
    loss: Any,
    metrics: Any = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    backbone: keras.Model | str | None = None,
    monitor: str = "val_loss",
    mode: str = "auto",
    batch_size: int = 32,
    steps_per_epoch: int | None = None,
    weight_decay: float | None = None,
    l2_sp: float = 0.0,
    clip: float | None = None,
    micro_batch: int = 0,
    r_drop: float = 0.0,
    mixup: float = 0.0,
    spike_guard: int = 3,
    gradient_checkpointing: bool = False,
    precision: str | None = None,
    ema: float = 0.0,
    steps_per_execution: int = 1,
    data_service: str = "",
    cache: bool = True,
    say: Callable[[str], None] = print,
) -> PhasedFit:
    """Fine-tunes any Keras model phase by phase.

    In each phase `trainable` is set as `Phase.train` says, the model is compiled, and
    trained; momentum and step counts of what trained before are carried over. The
    phase ends with the weights of its best epoch, or of its start if none was better,
    and an audit proves that what was frozen is bit-identical. Dropout in blocks in
    which nothing trains is off. At the end `trainable` is as the last phase had it.

    Args:
        model: functional, Sequential, from keras.applications or KerasHub; subclassed
            where its layers can be found.
        train: a batched `tf.data.Dataset`, a `keras.utils.PyDataset`, or a tuple of
            arrays (x, y) or (x, y, sample_weight), which are shuffled.
        validation: likewise; without it each phase keeps its last epoch.
        phases: at least one; or the name of a recipe as in `FineTuneConfig`, with the rates
            and epochs that `FitConfig` has by default.
        loss: as in `keras.Model.compile`.
        metrics: as in `keras.Model.compile`.
        optimizer: whose settings, but for the rate, each phase's optimiser has;
            by default `LayerwiseAdamW` with `weight_decay` and `clip`.
        callbacks: for `fit`, called in every phase; epochs count on over the phases.
        backbone: the pretrained part, or the name of its layer; found if not given.
        monitor: the validation figure that decides which epoch is best.
        mode: whether that is its `max` or `min`; `auto` goes by its name.
        batch_size: of arrays.
        steps_per_epoch: batches an epoch, where `train` does not tell.
        weight_decay: of the default optimiser, by default 0.01; not on biases and norms.
        l2_sp: how strongly that optimiser pulls pretrained weights to the values they
            have now, in place of weight decay, as in `LayerwiseAdamW`.
        clip: global norm that its gradients are clipped to, by default 1; 0 means no clipping.
        micro_batch: examples of a batch that go through the network at a time, for less
            memory; an update still takes the whole batch. 0 means all at once.
        r_drop: weight of the disagreement between two passes with dropout (R-Drop), as in
            `Disagreement`; phases without dropout go without. 0 makes one pass.
        mixup: alpha of the Beta distribution by which examples are mixed, and their losses
            with them, as in `place_of`: their inputs, or what goes into the last layer.
        spike_guard: how often a phase may go back to its last good state when the loss
            blows up, as in `SpikeGuard`; 0 turns that off.
        gradient_checkpointing: keep of each block only what goes in and what comes out,
            and compute what lies between again in the backward pass (Chen et al. 2016,
            arXiv:1604.06174); with the same random numbers, so with the same gradients.
        precision: `bfloat16`, `float16` (the loss is then scaled), `float32`, or `auto`, that
            all but the head compute in while they train, as in `FitConfig`; variables must
            be float32 and stay so. None leaves the layers as they are.
        ema: momentum, such as 0.99, of averaged weights: epochs are judged by them, and
            phases end with them, as in `AveragedWeights`; 0 means none.
        steps_per_execution: updates in one call of TensorFlow, as in
            `keras.Model.compile`; an epoch's last call makes those that are left.
        data_service: the address of a tf.data service that prepares `train`, as in `served`.
        cache: where `train` and `validation` are NumPy arrays, run the frozen part of a phase
            over them once, where that takes less time, and train on what it gave: with the
            same result to rounding. Not with `callbacks` or `mixup`, which would see a part
            of the model.
        say: where lines for people go.

    Returns:
        The history of all epochs, and what happened in each phase.

    Raises:
        UserError: for a mistake in the arguments, before training, or where training
            diverges in a phase's first epoch.
        AuditError: if a frozen variable changed or nothing that was to train moved.
    """
    refuse_unsound()
    check_phases(phases if isinstance(phases, str) else list(phases), Phase, "phases")
    examples = given_examples(train, validation, batch_size, steps_per_epoch)
    if isinstance(phases, str):
        _build(model, train)
        blocks = len(layer_groups(model, backbone).blocks)
        phases = phases_of(FineTuneConfig(phases=phases), blocks, examples.steps)
    if gradient_checkpointing:
        check_tunes_blocks([phase.train for phase in phases], "gradient_checkpointing")
    phases = [dataclasses.replace(phase, name=phase.name or phase.train) for phase in phases]
    if mode not in ("auto", "max", "min"):
        raise UserError(f'mode is "{mode}"; allowed: auto, max, min.')
    check_callbacks(callbacks, phases)
    check_validation(validation, phases, monitor)
    check_l2_sp(l2_sp, optimizer)
    decay, norm = decay_and_norm(weight_decay, clip, optimizer, phases)
    fraction("ema", ema)
    if not ema:
        check_averages(optimizer)
    whole_number("steps_per_execution", steps_per_execution, 1)
    if precision is not None:
        one_of("precision", precision, PRECISIONS)
        precision = resolve(precision)
    objective = Objective(
        loss=loss,
        metrics=metrics,
        monitor=monitor,
        mode=mode_of(monitor) if mode == "auto" else mode,
    )
    if data_service:
        given = train if isinstance(train, tuple | list) else examples.train["x"]
        examples.train["x"] = served(given, data_service)
    step = Step(micro_batch=micro_batch, r_drop=r_drop, mixup=mixup)
    check_batch(step, examples)
    _build(model, train)
    check_strategy(model)
    guard_saving(model)
    if lora_layers(model):  # by Keras's own `enable_lora`, perhaps
        remember(model, anew=False)
    check_loss(model, loss, train)
    if mixup:
        body, end = place_of(model, first_inputs(train))
        step = dataclasses.replace(step, body=body, head=end, seed=None)
    groups = layer_groups(model, backbone)
    noisy, opened, trained = [], [], []
    for phase in phases:  # refuses what selects nothing
        _open(model, groups, phase)
        check_step(model, step)
        check_batch_norms(model)
        rate_of(phase, examples.steps)
        opened.append(may_change(model))
        trained.append({id(v) for v in model.trainable_variables})
        with frozen_dropout_off(groups):
            noisy.append(drops(model))
    check_noise(step, noisy)
    check_warm_up(optimizer, examples.steps * fewest_epochs(phases, trained))
    traced = (gradient_checkpointing or precision) and not graph_of(model)
    inputs = first_inputs(train) if traced else None
    if gradient_checkpointing:
        for phase in {phase.batch_norm: phase for phase in phases}.values():
            _open(model, groups, phase)
            check_recomputable(groups, inputs)
    if precision is not None:
        check_precision(precision, groups, inputs)
        say(f"all but the head computes in {precision}")
    anchors = anchors_of(groups, phases, l2_sp)
    for line in repeated(phases, opened):
        say(line)

    def optimizer_of(phase: Phase) -> keras.optimizers.Optimizer:
        if optimizer is not None:
            return another(optimizer, rate_of(phase, examples.steps), state)
        return adamw_of(
            phase,
            examples.steps,
            groups,
            weight_decay=decay,
            clip=norm,
            l2_sp=l2_sp,
            anchors=anchors,
        )

    results: list[PhaseResult] = []
    history: list[dict[str, Any]] = []
    state: State = {}
    keeps = cache and not callbacks and not mixup and isinstance(train, tuple | list)
    for number, phase in enumerate(phases, 1):
        _open(model, groups, phase)
        with (
            frozen_dropout_off(groups),
            body_computing_in(precision, groups),
            recomputed_blocks(groups, gradient_checkpointing),
            labels_explained(),
        ):
            kept = kept_arrays(groups, phase, examples, say) if keeps else None
            result = fit_phase(
                kept.model if kept else model,
                kept.examples if kept else examples,
                phase,
                objective=objective,
                optimizer=optimizer_of(phase),
                state=state,
                number=number,
                full=model if kept else None,
                callbacks=callbacks,
                first_epoch=len(history),
                step=step,
                spike_guard=spike_guard,
                ema=ema,
                strict=False,
                steps_per_execution=steps_per_execution,
                say=say,
            )
        result.kept_share = kept.share if kept else 0.0
        results.append(result)
        history += result.history
    if kept:  # for the user's own `evaluate`
        compile_phase(model, optimizer_of(phases[-1]), objective, steps_per_execution)
    return PhasedFit(history=history, phases=results)


def _open(model: keras.Model, groups: Groups, phase: Phase) -> None:
    set_trainable(groups, phase.train, phase.batch_norm)
    if not model.trainable_weights:
        raise UserError(
            f'phase {phase.name}: train="{phase.train}" selects nothing that can train, only '
            "statistics or quantised weights; choose another selection."
        )


def _build(model: keras.Model, train: Any) -> None:
    """Makes the variables of a model that is built by its first batch."""
    if model.built:
        return
    try:
        model(first_inputs(train))
    except NotImplementedError:
        return  # a model without a `call`; what it lacks is told of where layers are looked for
    except ValueError as error:
        raise UserError(
            f'the model "{model.name}" has no weights yet, and train does not say enough to make '
            f"them ({str(error).splitlines()[0]}); call it on a batch of inputs first."
        ) from None
