"""Data and model of a run, put together; nothing is trained here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.data import sources
from tf_finetune.data.pipeline import Store
from tf_finetune.data.prepare import Prepared, prepare
from tf_finetune.data.tags import tag_names
from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.fit import precision
from tf_finetune.fit.audit import may_change
from tf_finetune.fit.distribution import check_batch_norms
from tf_finetune.fit.phases import phases_of, probe_baseline, repeated, told_of_unread
from tf_finetune.fit.recompute import check_recomputable
from tf_finetune.fit.step_checks import check_noise, check_step
from tf_finetune.fit.steps import step_of
from tf_finetune.fit.strategy import check_global_batch
from tf_finetune.inputs.choose import inputs_of
from tf_finetune.inputs.kind import Inputs
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import drops, frozen_dropout_off, set_trainable
from tf_finetune.model.headed import HeadedTask
from tf_finetune.model.image_task import ImageTask
from tf_finetune.model.lora import add_lora
from tf_finetune.optim.l2_sp import Anchors, anchors_of

SPLITS = "splits.npz"


@dataclasses.dataclass(slots=True, kw_only=True)
class Setup:
    """Data and model of a run, ready to train.

    Attributes:
        phases: of the run.
        baseline: the head alone, to compare with; None if the run begins with that.
        anchors: what `config.fit.l2_sp` pulls to.
        labels: by row, as the loss takes them.
    """

    prepared: Prepared
    task: HeadedTask
    phases: list[Phase]
    baseline: Phase | None
    anchors: Anchors
    inputs: Inputs
    store: Store
    precision: str
    labels: Any

    def examples(self, rows: np.ndarray) -> Any:
        """Some rows as `task.predict` takes them."""
        return self.inputs.examples(self.prepared.table, self.store, rows)


def set_up(
    config: FineTuneConfig, cache: Path, data: Any = None, *, say: Callable[[str], None] = print
) -> Setup:
    """Prepares data and model; trains nothing.

    Args:
        config: of the run, validated.
        cache: a folder for the rows (`rows.arrow`), their tokens or pixels, and which rows are
            of which split (`splits.npz`).
        data: as in `fine_tune`.
        say: where lines for people go.

    Raises:
        UserError: for a mistake in data, preset, sequence length or phases.
    """
    keras.utils.set_random_seed(config.fit.seed)
    check_global_batch("config.fit.global_batch", config.fit.global_batch)
    # First what takes milliseconds, then seconds, then minutes.
    sources.check(config.data, data, task=config.model.task)
    inputs = inputs_of(config, data)
    groups = layer_groups(inputs.backbone, inputs.backbone)
    blocks = len(groups.blocks)
    for phase in phases_of(config, blocks, 1):
        # What can be refused without the head is refused before the data are read.
        if phase.train not in ("head", "lora") and not phase.train.startswith(("re:", "from:")):
            set_trainable(groups, phase.train, phase.batch_norm)
    cache.mkdir(parents=True, exist_ok=True)
    prepared = prepare(config, cache, data)
    np.savez(cache / SPLITS, **prepared.splits)  # type: ignore[arg-type]
    counts = ", ".join(f"{name} {len(rows):,}" for name, rows in prepared.splits.items())
    say(f"data: {counts} rows; classes: {', '.join(prepared.class_names) or 'none'}"[:200])
    if prepared.tags:
        say(prepared.tags.note)
    targets = prepared.labels[prepared.splits["train"]]
    prepared, store = inputs.joined(prepared, inputs.store(prepared, cache), say)
    labels = inputs.labels(prepared, store, say)
    updates = math.ceil(len(prepared.splits["train"]) / config.fit.global_batch)
    phases = phases_of(config, blocks, updates)
    task = task_of(config, inputs, prepared.class_names, targets, phases, say=say)
    groups = layer_groups(task.network, task.backbone)
    noisy, opened = [], []
    # To be found, the micro-batch may be any: 1 stands for it.
    micro_batch = abs(config.fit.micro_batch)
    step = step_of(task, task.network, dataclasses.replace(config.fit, micro_batch=micro_batch))
    for phase in phases:
        set_trainable(groups, phase.train, phase.batch_norm)
        check_step(task.network, step)
        check_batch_norms(task.network)
        opened.append(may_change(task.network))
        with frozen_dropout_off(groups):
            noisy.append(drops(task.network))
    check_noise(step, noisy)
    for line in (*told_of_unread(config), *repeated(phases, opened)):
        say(line)
    if config.fit.gradient_checkpointing:
        check_recomputable(groups)
    anchors = anchors_of(groups, phases, config.fit.l2_sp, "config.fit.l2_sp")
    chosen = precision.resolve(config.fit.precision, pictures=isinstance(task, ImageTask))
    head = {TOKENS: "a head on each word", LANGUAGE: "its own head"}.get(
        task.kind, f"{config.model.pooling} pooling"
    )
    say(f"model: {config.model.preset}, {head}, {inputs.words}, {chosen}")
    return Setup(
        prepared=prepared,
        task=task,
        phases=phases,
        baseline=probe_baseline(config, phases, updates),
        anchors=anchors,
        inputs=inputs,
        store=store,
        precision=chosen,
        labels=labels,
    )


def task_of(
    config: FineTuneConfig,
    inputs: Inputs,
    class_names: Sequence[str],
    targets: np.ndarray,
    phases: Sequence[Phase],
    *,
    say: Callable[[str], None] = print,
) -> HeadedTask:
    """A backbone with its head and, where a phase trains them, its adapters.

    Args:
        config: of the run.
        inputs: with the backbone.
        class_names: none for regression.
        targets: labels of the training rows.
        phases: of the run.
        say: where lines for people go.
    """
    model = config.model
    task = inputs.task(**_head_of(config, class_names, targets))
    task.soft = config.data.soft_labels
    if any(phase.train == "lora" for phase in phases):
        rank, alpha, targeted = model.lora_rank, model.lora_alpha, model.lora_targets
        adapted = add_lora(task.network, rank, alpha, targeted, backbone=task.backbone)
        say(f"LoRA of rank {rank} beside {len(adapted)} kernels")
    return task


def _head_of(
    config: FineTuneConfig, class_names: Sequence[str], targets: np.ndarray
) -> dict[str, Any]:
    """What `Inputs.task` needs to know; of token classification, `class_names` are entities'."""
    model = config.model
    regression = model.task == "regression"
    if model.task == TOKENS:
        class_names = tag_names(class_names)
    return {
        "kind": model.task,
        "class_names": tuple(class_names) or (config.data.label,),
        "pooling": model.pooling,
        "dropout": model.dropout,
        "target_mean": float(targets.mean(dtype="float64")) if regression else 0.0,
        "target_std": float(targets.std(dtype="float64")) if regression else 1.0,
    }
