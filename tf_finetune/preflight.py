"""The batch that fits: a real update is tried in a process of its own before a run.

    python -m tf_finetune.preflight FOLDER

tries the one that `fitting` has written into a folder.
"""

from __future__ import annotations

import bisect
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune.assemble import Setup, task_of
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.data_checks import LANGUAGE
from tf_finetune.errors import UserError
from tf_finetune.fit import precision
from tf_finetune.fit.interpolation import interpolates
from tf_finetune.fit.loop import compile_phase, run_adamw
from tf_finetune.fit.memory import free_bytes, picture_update_bytes, update_bytes, used_bytes
from tf_finetune.fit.objective import objective_of
from tf_finetune.fit.recompute import recomputed_blocks
from tf_finetune.fit.steps import step_of, training_by
from tf_finetune.inputs.choose import loaded_inputs
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import frozen_dropout_off, set_trainable
from tf_finetune.optim.l2_sp import anchors_of

FIND = -1  # as `config.fit.micro_batch`

_NEAR = 0.5  # of what is free: from here on the estimate is not to be relied on
_LOGITS = 3
_USABLE = 0.9  # of what is free: the rest is for data, checkpoints and others
_PIXELS = "pixels"  # what is no dictionary in a file of arrays
_SECONDS = 0.02  # between two looks at what a process holds
# How a process ends for which there is no memory: by the kernel, by allocators that abort
# or run into nothing, or with one of these words.
_SIGNALS = (-6, -7, -9, -11)
_WORDS = ("ResourceExhausted", "MemoryError", "Cannot allocate memory", "failed to map segment")


def share_gpu(config: FineTuneConfig) -> None:
    """Has TensorFlow take a GPU's memory as it needs it, so that an update can be tried.

    Without effect once TensorFlow has begun to use the GPU.
    """
    if config.fit.micro_batch == FIND:
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def fitting_replicas(
    config: FineTuneConfig, setup: Setup, *, say: Callable[[str], None] = print
) -> FineTuneConfig:
    """As `fitting`, where each replica of the strategy of the moment has a share of the rows."""
    fit, replicas = config.fit, tf.distribute.get_strategy().num_replicas_in_sync
    share = dataclasses.replace(fit, global_batch=-(-fit.global_batch // replicas))
    found = fitting(dataclasses.replace(config, fit=share), setup, say=say).fit.micro_batch
    return dataclasses.replace(config, fit=dataclasses.replace(fit, micro_batch=found))


def fitting(
    config: FineTuneConfig, setup: Setup, *, say: Callable[[str], None] = print
) -> FineTuneConfig:
    """The configuration with a `micro_batch` with which an update fits in memory.

    Nothing is tried where one is set, or where by the estimate all rows of an update
    fit comfortably. Else the update that takes most is made in a process of its own, on
    the longest rows, to find how many fit at a time. `global_batch` stays.

    Args:
        config: of the run.
        setup: of the run.
        say: where lines for people go.

    Raises:
        UserError: if not even one row at a time fits.
    """
    fit, free = config.fit, free_bytes()
    if fit.micro_batch > 0 or (free is None and fit.micro_batch != FIND):
        return config
    phase, needed = _largest(config, setup)
    if fit.micro_batch != FIND and needed <= _NEAR * (free or 0):
        return config
    usable = None if free is None else int(_USABLE * free)
    say(
        f"memory: {_gb(free)} are free; phase {phase.name} needs about {_gb(needed)} for an update "
        f"of {fit.global_batch} rows, which is now tried in a process of its own"
    )
    with tempfile.TemporaryDirectory(prefix="tf_finetune-preflight-") as name:
        _write(Path(name), config, setup, phase)
        rows = _most(fit.global_batch, lambda rows: attempt(Path(name), rows, usable), say)
    if not rows:
        raise UserError(_mends(config, setup, free))
    say(f"memory: {rows} rows go through at a time")
    chosen = 0 if rows == fit.global_batch else rows
    return dataclasses.replace(config, fit=dataclasses.replace(fit, micro_batch=chosen))


def _most(batch: int, peak: Callable[[int], int | None], say: Callable[[str], None]) -> int:
    """The rows at a time with which a batch goes through in the fewest parts, 0 if none fit.

    Parts are as even as can be: more rows in the first ones would take more memory, and
    no less time.

    Args:
        batch: rows of an update.
        peak: bytes that so many rows at a time take; None where they do not fit.
        say: where lines for people go.
    """

    def fits(rows: int) -> bool:
        found = peak(rows)
        how = "do not fit" if found is None else f"fit, in a process that takes {_gb(found)}"
        say(f"memory: {rows} rows at a time {how}")
        return found is not None

    if fits(batch):
        return batch
    sizes = sorted({-(-batch // parts) for parts in range(2, batch + 1)}, reverse=True)
    first = bisect.bisect_left(sizes, True, key=fits)
    return sizes[first] if first < len(sizes) else 0


def attempt(folder: Path, rows: int, usable: int | None) -> int | None:
    """Makes an update in a process of its own.

    Args:
        folder: written by `fitting`.
        rows: that go through the network at a time.
        usable: bytes that the process may hold; it is ended when it holds more.

    Returns:
        The most bytes that it held; None if it ran out of memory.

    Raises:
        RuntimeError: if it failed for another reason.
    """
    result = folder / "peak.json"
    result.unlink(missing_ok=True)
    alone = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    around = alone | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        "KERAS_BACKEND": "tensorflow",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    with (folder / "said.txt").open("w+", errors="replace") as said:
        process = subprocess.Popen(
            command(folder, rows), stdout=said, stderr=subprocess.STDOUT, env=around
        )
        try:
            while process.poll() is None:
                # Before the kernel has to end anything, which might be us.
                if usable is not None and used_bytes(process.pid) > usable:
                    return None
                time.sleep(_SECONDS)
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        words = said.read()
    if process.returncode:
        if process.returncode in _SIGNALS or any(word in words for word in _WORDS):
            return None
        raise RuntimeError(f"trying an update ended with {process.returncode}: {words}")
    peak = int(json.loads(result.read_text()))
    return None if usable is not None and peak > usable else peak


def command(folder: Path, rows: int) -> list[str]:
    """How an update is tried."""
    return [sys.executable, "-m", "tf_finetune.preflight", str(folder), str(rows)]


def _largest(config: FineTuneConfig, setup: Setup) -> tuple[Phase, int]:
    """The phase whose updates take most, and about how many bytes they take."""
    task, fit = setup.task, config.fit
    groups = layer_groups(task.network, task.backbone)
    rows = setup.prepared.splits["train"]
    found = []
    for phase in setup.phases:
        set_trainable(groups, phase.train, phase.batch_norm)
        count, width = min(fit.global_batch, len(rows)), 4 if setup.precision == "float32" else 2
        first = setup.store.batch(rows[:1])
        if not isinstance(first, dict):
            needed = picture_update_bytes(groups, first, count, width=width)
        else:
            longest, kept = int(setup.store.lengths[rows].max()), not fit.gradient_checkpointing
            needed = update_bytes(groups, task.backbone, count, longest, width=width, kept=kept)
        if task.kind == LANGUAGE:
            # Logits of a whole batch, with their probabilities and gradients; in float32.
            rows_of_logits = max(_LOGITS * count, 2 * fit.eval_batch)
            needed += 4 * longest * int(task.network.output.shape[-1]) * rows_of_logits
        found.append((needed, phase))
    needed, phase = max(found, key=lambda pair: pair[0])
    return phase, needed


def _write(folder: Path, config: FineTuneConfig, setup: Setup, phase: Phase) -> None:
    """Puts what an update needs into a folder: the longest rows, and how to train."""
    fit, prepared = config.fit, setup.prepared
    rows = prepared.splits["train"]
    count = max(fit.global_batch, fit.eval_batch)
    longest = rows[np.argsort(-setup.store.lengths[rows], kind="stable")[:count]]
    inputs = setup.store.batch(longest)
    named = inputs if isinstance(inputs, dict) else {_PIXELS: inputs}
    np.savez(folder / "x.npz", **named)
    np.save(folder / "y.npy", setup.labels[longest])
    job = {
        "config": config.to_json(),
        "class_names": list(prepared.class_names),
        "phases": [dataclasses.asdict(phase) for phase in setup.phases],
        "phase": dataclasses.asdict(phase),
        "precision": setup.precision,
    }
    (folder / "job.json").write_text(json.dumps(job))


def _try(folder: Path, rows: int) -> None:
    """Makes the update, and writes down the most memory that this process held."""
    job = json.loads((folder / "job.json").read_text())
    config, phase = FineTuneConfig.from_json(job["config"]), Phase(**job["phase"])
    with np.load(folder / "x.npz") as arrays:
        x: Any = dict(arrays)
    x = x.get(_PIXELS, x)
    y, fit = np.load(folder / "y.npy"), config.fit
    phases = [Phase(**values) for values in job["phases"]]
    task = task_of(config, loaded_inputs(config), job["class_names"], y, phases)
    network = task.network
    groups = layer_groups(network, task.backbone)
    anchors = anchors_of(groups, [phase], fit.l2_sp) if phase.train != "head" else []
    set_trainable(groups, phase.train, phase.batch_norm)
    # A run holds them meanwhile, to go back towards them; so does this process.
    before = network.get_weights() if interpolates(fit, phases) else []
    fit = dataclasses.replace(fit, micro_batch=0 if rows == fit.global_batch else rows)
    with (
        precision.computing_in(job["precision"], task.backbone),
        frozen_dropout_off(groups),
        recomputed_blocks(groups, fit.gradient_checkpointing),
    ):
        optimizer = run_adamw(phase, 100, groups, fit, anchors)
        compile_phase(network, optimizer, objective_of(task, fit.label_smoothing))
        with training_by(network, step_of(task, network, fit)):
            batch = slice(fit.global_batch)
            network.train_on_batch(tf.nest.map_structure(lambda v: v[batch], x), y[batch])
        network.predict_on_batch(tf.nest.map_structure(lambda v: v[: fit.eval_batch], x))
    (folder / "peak.json").write_text(json.dumps(used_bytes(name="VmHWM")))
    del before


def _mends(config: FineTuneConfig, setup: Setup, free: int | None) -> str:
    mends = [] if config.fit.gradient_checkpointing else ["config.fit.gradient_checkpointing=True"]
    mends += [
        *(f"a config.model.{name} below {size}" for name, size in setup.inputs.size.items()),
        f"a config.fit.eval_batch below {config.fit.eval_batch}",
        *([] if config.phases == "lora" else ["config.phases=lora"]),
        "a smaller config.model.preset",
    ]
    return (
        f"config.fit.global_batch is {config.fit.global_batch}, of which not even one row at a "
        f"time fits in memory ({_gb(free)} free). Set {', '.join(mends[:-1])}, or {mends[-1]}."
    )


def _gb(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / 1e9:.1f} GB"


if __name__ == "__main__":
    _try(Path(sys.argv[1]), int(sys.argv[2]))
