"""What a run would do and cost, before anything is trained."""

from __future__ import annotations

import dataclasses
import itertools
import math
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.assemble import Setup, set_up
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.data.pipeline import plan_epoch
from tf_finetune.exports import every_format
from tf_finetune.fit import precision
from tf_finetune.fit.activations import Kept
from tf_finetune.fit.loop import compile_phase, run_adamw
from tf_finetune.fit.objective import objective_of
from tf_finetune.fit.planned_cuts import Planned
from tf_finetune.fit.recompute import recomputed_blocks
from tf_finetune.fit.steps import step_of, training_by
from tf_finetune.fit_settings import FitConfig
from tf_finetune.kept import cuts_of_run, kept_rows, views_of
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import count_parameters, frozen_dropout_off, set_trainable
from tf_finetune.model.slicing import Cut, Suffix, key_of, run_prefixes
from tf_finetune.preflight import fitting, share_gpu

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
            kept = cuts_of_run(setup, config, Path(folder)) if config.fit.cache else []
            cuts = kept[-len(phases) :]
            costs = [
                _cost(setup, config, phase, cut)
                for phase, cut in itertools.zip_longest(phases, cuts)
            ]
        for phase, cost in zip(phases, costs, strict=True):
            if cost["kept"]:
                lines.append(f"phase {phase.name}: {cost['kept']}")
            elif cost["why_not"]:
                lines.append(f"phase {phase.name}: the model is not cut: {cost['why_not']}")
        cache = sum(file.stat().st_size for file in Path(folder).rglob("*"))
        cache += sum(cost["kept"].bytes for cost in costs if cost["kept"])
        lines += ["", _table(phases, costs), "", _totals(config, costs, cache)]
        lines += ["", setup.prepared.report]
    return "\n".join(lines)


def _cost(
    setup: Setup, config: FineTuneConfig, phase: Phase, planned: Planned | None
) -> dict[str, Any]:
    """Times two real steps of a phase on batches of its own; undoes them.

    Of one that trains on a cut also those of the whole network.
    """
    task, fit = setup.task, config.fit
    rows = setup.prepared.splits["train"]
    before = task.network.get_weights()
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, phase.train, phase.batch_norm)
    trainable, total = count_parameters(task.network)
    cached = phase.train == "head" and fit.cache and task.one_vector
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

    def timed(network: keras.Model, inputs: list[Any], body: Any = None) -> tuple[float, float]:
        """Seconds of the first step, and of a later one."""
        optimizer = run_adamw(phase, per_epoch, groups, fit, setup.anchors)
        compile_phase(network, optimizer, objective_of(task, fit.label_smoothing))
        with (
            frozen_dropout_off(groups),
            recomputed_blocks(groups, fit.gradient_checkpointing),
            training_by(network, step_of(task, network, fit, body)),
        ):
            first = _step(network, inputs[0], setup.labels[chosen[0]])
            steps = [
                _step(network, x, setup.labels[b])
                for x, b in zip(inputs, chosen, strict=True)
                for _ in range(2)
            ]
        task.network.set_weights(before)
        return first, float(np.median(steps))

    first, step = timed(network, inputs)
    kept = None
    if planned and planned.cut:
        cut = planned.cut
        suffix, body, arrays, rate = _on_cut(setup, fit, cut, inputs)
        whole, (first, step) = step, timed(suffix, arrays, body)
        kept = _kept(setup, config, planned, phase.epochs, arrays[0], rate, whole - step)
    everything = len(kept_rows(setup, views_of(setup, config))[0])
    seeds = fit.probe_seeds if phase is setup.phases[0] else 1
    updates = per_epoch * phase.epochs * seeds
    return {
        "trainable": trainable,
        "total": total,
        "disk": _FLOAT * count_parameters(network)[1],
        # Of the process: what was freed is seldom given back before a run ends.
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "updates": updates,
        "step": step,
        "seconds": first * seeds
        + updates * step
        + (everything / encode_rate if cached else 0.0)
        + (kept.seconds if kept else 0.0),
        "kept": kept,
        "why_not": planned.why_not if planned else "",
    }


@dataclasses.dataclass(slots=True, kw_only=True)
class _Kept:
    """What it takes to keep the activations of a phase, and what it brings.

    Attributes:
        bytes: on the disk.
        seconds: to make them; 0 where a pass over the rows makes them that is made anyway.
        spared: seconds an epoch.
        epochs: of the phase.
    """

    bytes: float
    seconds: float
    spared: float
    epochs: int

    def __str__(self) -> str:
        made = f"made in {_minutes(self.seconds)}" if self.seconds else "made beside the head's"
        if self.spared <= 0:
            return (
                f"its activations are kept ({self.bytes / 1e6:,.1f} MB, {made}), but steps were "
                "no faster here; set config.fit.cache=False if that stays so"
            )
        return (
            f"the activations of its frozen part are kept, {self.bytes / 1e6:,.1f} MB, {made}; "
            f"that spares {self.spared:.1f} s an epoch, and pays from epoch "
            f"{math.ceil(self.seconds / self.spared) or 1} of {self.epochs} on"
        )


def _on_cut(
    setup: Setup, fit: FitConfig, cut: Cut, inputs: list[Any]
) -> tuple[Suffix, Suffix | None, list[Any], float]:
    """What trains on a cut, up to the head too; what it is given; rows a second that make it."""
    run = tf.function(lambda x: run_prefixes([cut], x)[0], autograph=False, reduce_retracing=True)
    for x in inputs:
        run(x)  # traces
    began = time.perf_counter()
    found = [run(x) for x in inputs]
    seconds = time.perf_counter() - began
    dtypes = {name: array.dtype.name for name, array in found[0].items()}
    given = [cut.steps.given(x) for x in inputs]
    passed = [{name: values[key] for name, key in cut.passed.items()} for values in given]
    body = None
    if fit.mixup:
        body = Suffix(cut, dtypes, key_of(cut.steps, setup.task.encoder.outputs[0]))
    arrays = [kept | more for kept, more in zip(found, passed, strict=True)]
    return Suffix(cut, dtypes), body, arrays, sum(map(_rows_in, inputs)) / seconds


def _kept(
    setup: Setup,
    config: FineTuneConfig,
    planned: Planned,
    epochs: int,
    arrays: dict[str, Any],
    rate: float,
    faster: float,
) -> _Kept:
    """Of a phase whose steps are so many seconds faster on a cut."""
    assert planned.cut
    splits, fit = setup.prepared.splits, config.fit
    views = views_of(setup, config)
    lengths = (views or setup.store).lengths[kept_rows(setup, views)[1]]
    total = 0
    for name, array in arrays.items():
        if name in planned.cut.passed:
            continue
        chosen = "" if fit.cache_precision == "computed" else fit.cache_precision
        dtype = chosen if chosen and array.dtype.is_floating else array.dtype.name
        one = Kept(name=name, shape=planned.cut.shape(name), dtype=dtype, computed=dtype)
        total += int(one.numbers(lengths).sum()) * tf.as_dtype(dtype).size
    updates = math.ceil(len(splits["train"]) / fit.global_batch)
    return _Kept(
        bytes=total,
        seconds=len(lengths) / rate if planned.alone else 0.0,
        spared=updates * faster + len(splits["validation"]) / rate,
        epochs=epochs,
    )


def _rows_in(inputs: Any) -> int:
    return len(tf.nest.flatten(inputs)[0])


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
    model = costs[0]["total"] * (1 + len(every_format.wanted(config.results))) * _FLOAT
    saved = _CHECKPOINTS * _FLOAT * max(cost["trainable"] for cost in costs)
    disk = sum(cost["disk"] for cost in costs) + saved + model + cache
    return (
        f"estimated: {_minutes(seconds)} of training, within a third or so; memory "
        f"{max(cost['memory'] for cost in costs) / 1e9:.1f} GB (the most while planning); "
        f"disk up to {disk / 1e6:,.1f} MB in the run folder"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
