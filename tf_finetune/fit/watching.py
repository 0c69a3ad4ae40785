"""The callbacks of a phase, in the order in which they must stand."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from tf_finetune.checkpoints.files import Arrays, Facts
from tf_finetune.config import Phase
from tf_finetune.fit.averaging import AveragedWeights
from tf_finetune.fit.callbacks import MetricsLog, Progress
from tf_finetune.fit.checkpoints import KeepBest
from tf_finetune.fit.examples import Examples
from tf_finetune.fit.objective import Objective
from tf_finetune.fit.spike_guard import SpikeGuard


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """Keras's own, which can be saved; the rate itself is the optimiser's."""

    def state(self) -> tuple[Arrays, Facts]:
        """What a checkpoint holds of it."""
        best = None if self.best is None else float(self.best)
        return {}, {"best": best, "wait": self.wait, "cooldown": self.cooldown_counter}

    def load(self, arrays: Arrays, facts: Facts) -> None:
        """Takes over what `state` gave, where a phase goes on."""
        self.best, self.wait, self.cooldown_counter = (
            facts[name] for name in ("best", "wait", "cooldown")
        )


@dataclasses.dataclass(slots=True, kw_only=True)
class Watching:
    """The callbacks of a phase.

    Attributes:
        all: as `fit` takes them.
        best: which of them keeps the best epoch.
        log: which of them keeps the figures.
        guard: against spikes; None if there is none.
    """

    all: list[Any]
    best: KeepBest
    log: MetricsLog
    guard: SpikeGuard | None

    def stateful(self) -> dict[str, Any]:
        """Those of which a checkpoint holds something, by name; later ones may read earlier."""
        return {type(c).__name__: c for c in self.all if hasattr(c, "load")}


def watching(
    phase: Phase,
    examples: Examples,
    objective: Objective,
    start: dict[str, float],
    number: int,
    workdir: Path | None,
    *,
    whole: keras.Model | None = None,
    ema: float,
    spike_guard: int,
    say: Callable[[str], None],
) -> Watching:
    """The callbacks of a phase, which is given as to `fit_phase`.

    Args:
        phase: to train.
        examples: of the phase.
        objective: which says what is best.
        start: validation figures of the phase's start.
        number: of the phase.
        workdir: the run folder; None writes nothing.
        whole: as in `KeepBest`.
        ema: momentum of averaged weights; 0 means none.
        spike_guard: how often to go back; 0 means never.
        say: where lines for people go.
    """
    best = best_of(phase, objective, start, number, workdir, whole)
    log = MetricsLog(phase.name, examples.size, workdir / "metrics.jsonl" if workdir else None)
    average = [AveragedWeights(ema)] if ema else []
    guard = None
    if spike_guard:
        least = start.get("val_loss", -math.inf)
        guard = SpikeGuard(spike_guard, least=least, beside=average, say=say)
    # The average, then the guard: what others read is what these have mended.
    found: list[Any] = [*average, *([guard] if guard else [])]
    found += [Progress(phase.name, examples.size, examples.steps), log, best]
    if workdir:
        found.append(
            keras.callbacks.TensorBoard(workdir / "logs" / _title(phase, number), write_graph=False)
        )
    if phase.schedule == "plateau":
        found.append(Plateau(objective.monitor, mode=objective.mode, factor=0.5, patience=1))
    return Watching(all=found, best=best, log=log, guard=guard)


def best_of(
    phase: Phase,
    objective: Objective,
    start: dict[str, float],
    number: int,
    workdir: Path | None,
    whole: keras.Model | None = None,
) -> KeepBest:
    """What keeps the best epoch of a phase, given as to `watching`."""
    folder = workdir / "checkpoints" / _title(phase, number) if workdir else None
    return KeepBest(objective.monitor, objective.mode, phase.patience, start, folder, whole)


def _title(phase: Phase, number: int) -> str:
    return re.sub(r"[^\w-]+", "-", f"{number}-{phase.name}")
