"""The learning-rate finder on a run's own model and data."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.assemble import Setup, set_up
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.data.labels import classes_of
from tf_finetune.fit import precision
from tf_finetune.fit.data_copy import Batch
from tf_finetune.fit.examples import examples_of_rows
from tf_finetune.fit.loop import run_adamw
from tf_finetune.fit.objective import objective_of
from tf_finetune.fit.recompute import recomputed_blocks
from tf_finetune.fit.steps import step_of, training_by
from tf_finetune.kept import frozen_part
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import frozen_dropout_off, set_trainable
from tf_finetune.one_phase import run_phase
from tf_finetune.preflight import fitting, share_gpu
from tf_finetune.rates.curve import RateCurve, curve_of
from tf_finetune.rates.finder import HIGHEST, LOWEST, STEPS, sweep

# Where a recipe's phase has its rate.
_SETTINGS = {
    "probe": "probe_learning_rate",
    "tune": "learning_rate",
    "lora": "lora_learning_rate",
}


def find_rate(
    config: FineTuneConfig, data: Any = None, *, say: Callable[[str], None] = print
) -> RateCurve:
    """Suggests a learning rate for the last phase of a run, the one that tunes.

    The phases that train the head alone are run before as in the run; others between
    are left out. Nothing is kept: files go to a temporary folder.

    Args:
        config: of the run.
        data: as in `fine_tune`.
        say: where lines for people go.

    Raises:
        UserError: for whatever `fine_tune` would refuse.
    """
    config.validate()
    with tempfile.TemporaryDirectory(prefix="tf_finetune-find-rate-") as folder:
        run = Path(folder)
        share_gpu(config)
        setup = set_up(config, run / "cache", data, say=say)
        config = fitting(config, setup, say=say)
        *before, phase = setup.phases
        with precision.computing_in(setup.precision, setup.task.backbone):
            state: dict = {}
            heads = dataclasses.replace(setup, phases=[p for p in before if p.train == "head"])
            frozen = frozen_part(heads, config, run / "cache", say) if heads.phases else None
            for early in before:
                if early not in heads.phases:
                    say(f"phase {early.name}: left out")
            for number, early in enumerate(heads.phases, 1):
                run_phase(setup, config, early, number, run, state, say, frozen=frozen)
            curve = _sweep(setup, config, phase)
    say(f"phase {phase.name}: {curve.summary()}")
    if curve.suggestion and isinstance(config.phases, str):
        say(f"take it with --config.fit.{_SETTINGS[phase.name]}={curve.suggestion:.1e}")
    return curve


def _sweep(setup: Setup, config: FineTuneConfig, phase: Phase) -> RateCurve:
    """On batches as the phase would have them in its first epochs."""
    task, splits, fit = setup.task, setup.prepared.splits, config.fit
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, phase.train, phase.batch_norm)
    examples = examples_of_rows(
        setup.store,
        setup.labels,
        splits["train"],
        splits["validation"],
        fit,
        setup.inputs.noise,
    )
    # The rate is set before each step, so it must not be a schedule.
    flat = dataclasses.replace(phase, schedule="plateau")
    optimizer = run_adamw(flat, examples.steps, groups, fit, setup.anchors)
    rates = np.geomspace(LOWEST, HIGHEST, STEPS)
    objective = objective_of(task, fit.label_smoothing)
    batches = _weighted(examples.train["x"], examples.train.get("class_weight"))
    with (
        frozen_dropout_off(groups),
        recomputed_blocks(groups, fit.gradient_checkpointing),
        training_by(task.network, step_of(task, task.network, fit)),
        contextlib.closing(batches) as own,
    ):
        return curve_of(rates.tolist(), sweep(task.network, own, rates, objective, optimizer))


def _weighted(batches: Any, by_class: dict[int, float] | None) -> Generator[Batch, None, None]:
    for x, y in batches:
        classes = classes_of(np.asarray(y)).tolist() if by_class else []
        weight = np.array([by_class[label] for label in classes], "float32") if by_class else None
        yield x, y, weight
