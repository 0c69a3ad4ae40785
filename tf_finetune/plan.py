"""What a run would do and cost, before anything is trained."""

from __future__ import annotations

import math
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.assemble import Setup, set_up
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.data.pipeline import plan_epoch
from tf_finetune.fit import precision
from tf_finetune.fit.loop import compile_phase, run_adamw
from tf_finetune.fit.objective import objective_of
from tf_finetune.fit.recompute import recomputed_blocks
from tf_finetune.fit.steps import step_of, training_by
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import count_parameters, frozen_dropout_off, set_trainable
from tf_finetune.preflight import fitting, share_gpu
from tf_finetune.results import exports

_FLOAT = 4
# Two checkpoints and one that is being written: weights, two moments, and the best weights.
_CHECKPOINTS = 3 * 4


def plan(config: FineTuneConfig, data: Any = None) -> str:
    """Checks the data, builds the model and times two steps of each phase.

    Nothing is trained and nothing is kept: files go to a temporary folder.

    Args:
        config: of the run.
        data: as in `fine_tune`.

    Returns:
        Lines for people: for each phase its parameters, updates, rate and estimated
        time, memory and disk.

    Raises:
        UserError: for whatever `fine_tune` would refuse.
    """
    config.validate()
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tf_finetune-plan-") as folder:
        share_gpu(config)
        setup = set_up(config, Path(folder), data, say=lines.append)
        config = fitting(config, setup, say=lines.append)
        phases = list(setup.phases)
        if setup.baseline:
            phases.insert(0, setup.baseline)
        with precision.computing_in(setup.precision, setup.task.backbone):
            costs = [_cost(setup, config, phase) for phase in phases]
        cache = sum(file.stat().st_size for file in Path(folder).rglob("*"))
        lines += ["", _table(phases, costs), "", _totals(config, costs, cache)]
        lines += ["", setup.prepared.report]
    return "\n".join(lines)


def _cost(setup: Setup, config: FineTuneConfig, phase: Phase) -> dict[str, float]:
    """Times two real steps of a phase on batches of its own; undoes them."""
    task, fit = setup.task, config.fit
    rows = setup.prepared.splits["train"]
    before = task.network.get_weights()
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, phase.train, phase.batch_norm)
    trainable, total = count_parameters(task.network)
    cached = phase.train == "head" and fit.cache
    network, encode_rate = task.network, 0.0
    classes = setup.prepared.labels[rows] if fit.sampling == "balanced" else None
    batches = plan_epoch(setup.store.lengths[rows], fit.global_batch, fit.seed, 0, classes)
    # The batches in the middle by length stand for all.
    middle = sorted(batches, key=lambda b: setup.store.lengths[rows[b]].max())
    chosen = [rows[b] for b in middle[len(middle) // 2 :][:2] or middle]
    inputs: list[Any] = [setup.store.batch(b) for b in chosen]
    if cached:
        for x in inputs:
            task.encoder.predict_on_batch(x)  # traces
        began = time.perf_counter()
        inputs = [task.encoder.predict_on_batch(x) for x in inputs]
        encode_rate = sum(map(len, chosen)) / (time.perf_counter() - began)
        network = task.head
    per_epoch = math.ceil(len(rows) / fit.global_batch)
    optimizer = run_adamw(phase, per_epoch, groups, fit, setup.anchors)
    compile_phase(network, optimizer, objective_of(task, fit.label_smoothing))
    with (
        frozen_dropout_off(groups),
        recomputed_blocks(groups, fit.gradient_checkpointing),
        training_by(network, step_of(task, network, fit)),
    ):
        first = _step(network, inputs[0], setup.prepared.labels[chosen[0]])
        steps = [
            _step(network, x, setup.prepared.labels[b])
            for x, b in zip(inputs, chosen, strict=True)
            for _ in range(2)
        ]
    task.network.set_weights(before)
    everything = sum(map(len, setup.prepared.splits.values()))
    seeds = fit.probe_seeds if phase is setup.phases[0] else 1
    updates = per_epoch * phase.epochs * seeds
    return {
        "trainable": trainable,
        "total": total,
        "disk": _FLOAT * count_parameters(network)[1],
        # Of the process: what was freed is seldom given back before a run ends.
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "updates": updates,
        "step": float(np.median(steps)),
        "seconds": first * seeds
        + updates * float(np.median(steps))
        + (everything / encode_rate if cached else 0.0),
    }


def _step(network: Any, x: Any, y: np.ndarray) -> float:
    began = time.perf_counter()
    network.train_on_batch(x, y)
    return time.perf_counter() - began


def _table(phases: list[Phase], costs: list[dict[str, float]]) -> str:
    names = ("trainable", "frozen", "updates", "rate", "s/step", "about", "memory", "disk")
    widths = (12, 12, 9, 9, 9, 10, 10, 11)
    head = f"{'phase':<16}" + "".join(f"{n:>{w}}" for n, w in zip(names, widths, strict=True))
    rows = [
        f"{phase.name:<16}{int(cost['trainable']):>12,}"
        f"{int(cost['total'] - cost['trainable']):>12,}{int(cost['updates']):>9,}"
        f"{phase.learning_rate:>9.1e}{cost['step']:>9.3f}{_minutes(cost['seconds']):>10}"
        f"{cost['memory'] / 1e9:>7.1f} GB{cost['disk'] / 1e6:>8,.1f} MB"
        for phase, cost in zip(phases, costs, strict=True)
    ]
    return "\n".join([head, *rows])


def _totals(config: FineTuneConfig, costs: list[dict[str, float]], cache: int) -> str:
    seconds = sum(cost["seconds"] for cost in costs)
    # Beside the best weights: checkpoints, the Keras model, the exports, and the data.
    model = costs[0]["total"] * (1 + len(exports.wanted(config.results))) * _FLOAT
    saved = _CHECKPOINTS * _FLOAT * max(cost["trainable"] for cost in costs)
    disk = sum(cost["disk"] for cost in costs) + saved + model + cache
    return (
        f"estimated: {_minutes(seconds)} of training, within a third or so; memory "
        f"{max(cost['memory'] for cost in costs) / 1e9:.1f} GB (the most while planning); "
        f"disk up to {disk / 1e6:,.1f} MB in the run folder"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
