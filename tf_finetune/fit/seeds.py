"""A phase from several initial heads, the best of which goes on."""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from tf_finetune.fit.objective import Objective
from tf_finetune.fit.spike_guard import Diverged
from tf_finetune.optim.carry import State

if TYPE_CHECKING:
    from tf_finetune.fit.phase_result import PhaseResult

Say = Callable[[str], None]
# From a seed, a folder, the optimiser's state and where lines go.
Run = Callable[[int, Path, State, Say], "PhaseResult"]

_HISTORY = "metrics.jsonl"


@dataclasses.dataclass(slots=True, kw_only=True)
class Seeds:
    """How a phase went from several initial heads.

    Attributes:
        monitor: the validation figure that decided.
        figures: what it came to from each, None where training diverged; the first is
            that of the run's own seed.
        chosen: which of them went on, counted from 1.
        spread: standard deviation of the figures that there are (n - 1); None of one.
    """

    monitor: str
    figures: list[float | None]
    chosen: int
    spread: float | None


def seeds_of(seed: int, count: int) -> list[int]:
    """The run's own seed, and others that follow from it."""
    others = [np.random.SeedSequence([seed, k]).generate_state(1)[0] for k in range(1, count)]
    return [seed, *map(int, others)]


def best_of_seeds(
    run: Run,
    model: keras.Model,
    seeds: list[int],
    *,
    objective: Objective,
    state: State,
    workdir: Path,
    say: Say,
) -> PhaseResult:
    """Trains a small model once from each seed and keeps what is best on validation.

    Fine-tuning depends on the head's first weights and the order of examples about as
    much as on its settings (Dodge et al. 2020, arXiv:2002.06305). Validation decides as
    within a phase; of equals the first is kept. One that diverges counts as the worst.

    Args:
        run: trains the model for a phase: from the seed of its examples, a folder for its
            files, the optimiser's state, which it brings up to date, and where lines go.
        model: trains as it is from the first seed and from new weights from the others.
            Ends as the best run left it, with its dropout's random numbers.
        seeds: of which a single one is run as it is.
        objective: says what is best.
        state: empty where there are several seeds; then that of the best run's optimiser.
        workdir: where the best run's files go; no other's are kept.
        say: where lines for people go.

    Returns:
        The best run's result; of several with the time of all, and `seeds`.

    Raises:
        Diverged: if training does so from each seed.
    """
    if len(seeds) == 1:
        return run(seeds[0], workdir, state, say)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tf_finetune-seeds-") as scratch:
        tries: list[_Try | None] = []
        for number, seed in enumerate(seeds, 1):
            if number > 1:
                _begin_anew(model, seed)
            title = f"seed {number} of {len(seeds)}"
            try:
                tried = _try(run, model, seed, Path(scratch, str(number)))
            except Diverged as error:
                if number == len(seeds) and not any(tries):
                    raise
                tries.append(None)
                say(f"{title}, which counts as the worst: {error}")
                continue
            tries.append(tried)
            figures = tried.result.figures
            say(
                f"phase {tried.result.name}, {title}: {objective.monitor} "
                f"{figures[objective.monitor]:.4f}, val_loss {figures['val_loss']:.4f}"
            )
        best = max(filter(None, tries), key=lambda one: one.score(objective))
        _keep_files(best.folder, workdir)
    for variable, value in zip(model.variables, best.weights, strict=True):
        variable.assign(value)
    state |= best.state
    found = _compared(tries, best, objective.monitor)
    say(f"phase {best.result.name}: {_summary(found)}")
    for line in best.lines:
        say(line)
    seconds = round(time.perf_counter() - began, 3)
    return dataclasses.replace(best.result, seconds=seconds, seeds=found)


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class _Try:
    """A run from one seed, and what it left behind."""

    result: PhaseResult
    weights: list[np.ndarray]
    state: State
    folder: Path
    lines: list[str]

    def score(self, objective: Objective) -> tuple[float, float]:
        figures, sign = self.result.figures, 1 if objective.mode == "max" else -1
        return sign * figures[objective.monitor], -figures["val_loss"]


def _try(run: Run, model: keras.Model, seed: int, folder: Path) -> _Try:
    folder.mkdir()
    state, lines = State(), list[str]()
    result = run(seed, folder, state, lines.append)
    weights = [variable.numpy() for variable in model.variables]
    return _Try(result=result, weights=weights, state=state, folder=folder, lines=lines)


def _compared(tries: list[_Try | None], best: _Try, monitor: str) -> Seeds:
    figures = [one.result.figures[monitor] if one else None for one in tries]
    known = [figure for figure in figures if figure is not None]
    spread = statistics.stdev(known) if len(known) > 1 else None
    return Seeds(monitor=monitor, figures=figures, chosen=tries.index(best) + 1, spread=spread)


def _summary(found: Seeds) -> str:
    known = [figure for figure in found.figures if figure is not None]
    if found.spread is None:
        return f"seed {found.chosen} goes on, the only one that did not diverge"
    return (
        f"seed {found.chosen} goes on; over {len(known)} seeds {found.monitor} is "
        f"{min(known):.4f} to {max(known):.4f}, standard deviation {found.spread:.4f}"
    )


def _begin_anew(model: keras.Model, seed: int) -> None:
    """New weights and new random numbers, as of a model that has just been made."""
    keras.utils.set_random_seed(seed)
    fresh = keras.models.clone_model(model)
    for variable, new in zip(model.variables, fresh.variables, strict=True):
        variable.assign(new)


def _keep_files(folder: Path, workdir: Path) -> None:
    """Checkpoints and logs as they are; the history goes on where it stands."""
    shutil.copytree(folder, workdir, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_HISTORY))
    with (workdir / _HISTORY).open("a") as out:
        out.write((folder / _HISTORY).read_text())
