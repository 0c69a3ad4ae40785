"""Tries settings on validation, and makes one run with the best."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from tf_finetune import quiet
from tf_finetune.assemble import set_up
from tf_finetune.checkpoints.lock import locked
from tf_finetune.config import FineTuneConfig, differences
from tf_finetune.errors import UserError
from tf_finetune.exports import every_format
from tf_finetune.finished import FitResult
from tf_finetune.fit.keeping import remove_kept
from tf_finetune.model import heads
from tf_finetune.preflight import share_gpu
from tf_finetune.recipe import written_recipe
from tf_finetune.results.compare import read_run
from tf_finetune.results.previous import previous_outputs
from tf_finetune.settings import TuneConfig
from tf_finetune.stopping import Stop
from tf_finetune.train import fine_tune
from tf_finetune.tuning.loop import check_same, try_settings
from tf_finetune.tuning.space import Space, own_values, read_space, some_values, with_values
from tf_finetune.tuning.storage import ended, open_study, take_up
from tf_finetune.tuning.told import account
from tf_finetune.tuning.workers import try_together
from tf_finetune.workdir import CARD, check_writable, write_atomically

CONFIG, TOLD, RECIPE, BEST = "tuning.json", "tuning.md", "best.py", "best"
# More may be asked for when the same command goes on.
_BUDGET = ("tune.trials", "tune.minutes", "tune.workers")


def tune(
    config: FineTuneConfig,
    workdir: str | os.PathLike[str],
    data: Any = None,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    workers: int | None = None,
    command: str = "",
    stop: Stop | None = None,
    say: Callable[[str], None] = print,
) -> FitResult:
    """Tries settings, each judged on validation, and makes one run with the best of them.

    Trials are kept in `workdir`: what was stopped goes on when it is called again, and comes
    to the same trials. The run with the best settings is in `workdir/best`; it alone uses the
    test split. The first trial is of the configuration's own settings, where they lie in
    the space.

    Args:
        config: the run's settings; `config.tune` has the budget and the space.
        workdir: a folder for the tuning.
        data: as in `fine_tune`.
        trials: instead of `config.tune.trials`.
        minutes: instead of `config.tune.minutes`.
        workers: instead of `config.tune.workers`.
        command: how it was started, for the report.
        stop: for the final run, as in `fine_tune`.
        say: where lines for people go.

    Returns:
        The result of the final run, with the trials.

    Raises:
        UserError: for a mistake in the configuration, the space or the data.
    """
    budget = dataclasses.replace(
        config.tune,
        trials=config.tune.trials if trials is None else trials,
        minutes=config.tune.minutes if minutes is None else minutes,
        workers=config.tune.workers if workers is None else workers,
    )
    config, run = dataclasses.replace(config, tune=budget), Path(workdir)
    config.validate()
    space = read_space(config)
    _check(config, data, run)
    check_writable(run)
    share_gpu(config)
    # Each trial has graphs of its own.
    with locked(run), quiet.without_retracing():
        _begin(run, config)
        study = open_study(config, run)
        if budget.workers > 1:  # which share what this process leaves of a GPU
            os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        try:
            digest = _set_up(with_values(config, some_values(config, space)), run, data)
        except UserError:
            # Of values in the space that the model cannot have, others may be right.
            if own_values(config, space) is not None:
                raise
        else:
            check_same(study, digest, run)
        take_up(study, config, space)
        if budget.workers > 1:
            try_together(config, run, say)
        else:
            try_settings(study, config, space, run, data, say)
        for cache in run.glob("cache*"):
            remove_kept(cache)
        best, folder, rows = _keep(study, config, space, run, say)
        say(f"best of {len(ended(study))} trials: {study.best_value:.4f}; now the run with it")
        result = fine_tune(best, folder, data, command=command, stop=stop, say=say)
        result.trials = rows
        return result


def _check(config: FineTuneConfig, data: Any, run: Path) -> None:
    if importlib.util.find_spec("optuna") is None:
        raise UserError('tuning needs optuna; run `pip install "tf_finetune[tune]"`.')
    if config.fit.strategy != "none":
        raise UserError(
            f'config.fit.strategy is "{config.fit.strategy}"; tuning runs on one device so far: '
            'set it to "none", and train with the recipe it finds on more.'
        )
    if config.tune.workers > 1 and data is not None:
        raise UserError(
            f"config.tune.workers is {config.tune.workers}, but data is given from Python, which "
            "other processes cannot read; set config.data.path or config.data.tfds, or workers=1."
        )
    # What the final run would refuse after all trials.
    every_format.check_exports(run / BEST / "export", every_format.wanted(config.results))
    if config.results.previous:
        read_run(Path(config.results.previous))


def _set_up(config: FineTuneConfig, run: Path, data: Any) -> str:
    """The digest of the data; raises what the final run would refuse of them and of the model.

    What is made of the rows is there for the trials.
    """
    try:
        setup = set_up(config, run / "cache", data, say=lambda line: None)
        every_format.check_model(setup.task, every_format.wanted(config.results))
        previous_outputs(config, setup)
        return setup.prepared.digest
    finally:
        keras.backend.clear_session()


def _begin(run: Path, config: FineTuneConfig) -> None:
    """Makes the folder that of a tuning, or checks that it is the same one's."""
    file = run / CONFIG
    if not file.exists():
        if others := sorted({path.name for path in run.iterdir()} - {".lock", f"writing-{CONFIG}"}):
            raise UserError(
                f'--workdir "{run}" is no folder of a tuning and is not empty (it holds '
                f"{others[0]}); choose a new or an empty folder."
            )
        write_atomically(file, config.to_json())
    changed = [
        line
        for line in differences(FineTuneConfig.from_json(file.read_text()), config)
        if line.partition(":")[0] not in _BUDGET
    ]
    if changed:
        raise UserError(
            f'"{run}" holds a tuning with another configuration:\n  '
            + "\n  ".join(changed)
            + "\nChoose another --workdir, or go back to the same settings."
        )


def _folder(best: FineTuneConfig, run: Path, say: Callable[[str], None]) -> Path:
    """Of the final run: that of these settings, or a new one where others were best before."""
    for number in itertools.count(1):
        folder = run / (BEST if number == 1 else f"{BEST}-{number}")
        config = folder / "config.json"
        if not config.exists() or not differences(
            FineTuneConfig.from_json(config.read_text()), best
        ):
            return folder
        if not (folder / CARD).exists():  # it was stopped, and has not seen the test split
            continue
        say(
            f'"{folder}" is the run with settings that were best before; this one goes to another '
            "folder, and reads the test split once more: its figure is no longer of a first look."
        )
    raise AssertionError


def _keep(
    study: Any, config: FineTuneConfig, space: Space, run: Path, say: Callable[[str], None]
) -> tuple[FineTuneConfig, Path, list[dict[str, Any]]]:
    """Writes the table and the recipe; the best configuration, where it trains, and the trials."""
    from optuna.trial import TrialState

    trials = ended(study)
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        raise UserError(
            f"all {len(trials)} trials diverged or were refused; give config.tune.space lower "
            "rates, and values that go together, in another workdir."
        )
    best = study.best_trial
    monitor = heads.monitor(config.model.task)[0]
    rows = [
        {
            "values": trial.params,
            "figures": trial.user_attrs["figures"],
            "how": "best" if trial.number == best.number else trial.user_attrs["how"],
            "seconds": trial.user_attrs["seconds"],
        }
        for trial in trials
    ]
    chosen = dataclasses.replace(with_values(config, best.params), tune=TuneConfig())
    folder = _folder(chosen, run, say)
    earlier = [path.parent.name for path in run.glob(f"{BEST}*/{CARD}") if path.parent != folder]
    write_atomically(run / TOLD, account(monitor, list(space), rows, folder.name, sorted(earlier)))
    opening = f"The best of {len(trials)} trials, {monitor} {best.value:.4f}; see tuning.md."
    write_atomically(run / RECIPE, written_recipe(chosen, opening))
    return chosen, folder, rows
