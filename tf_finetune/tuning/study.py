"""Tries settings on validation, and makes one run with the best."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tf_finetune import quiet
from tf_finetune.checkpoints.lock import locked
from tf_finetune.config import FineTuneConfig, differences
from tf_finetune.errors import UserError
from tf_finetune.finished import FitResult
from tf_finetune.fit.spike_guard import Diverged
from tf_finetune.model import heads
from tf_finetune.settings import TuneConfig
from tf_finetune.stopping import Stop
from tf_finetune.train import fine_tune
from tf_finetune.tuning.space import Space, own_values, read_space, suggested, with_values
from tf_finetune.tuning.told import account, recipe
from tf_finetune.tuning.trials import run_trial
from tf_finetune.workdir import check_writable, write_atomically

CONFIG, TRIALS, TOLD, RECIPE, BEST = "tuning.json", "trials.db", "tuning.md", "best.py", "best"
_TRIAL = "trial"
# More may be asked for when the same command goes on.
_BUDGET = ("tune.trials", "tune.minutes")
# Before these no trial is pruned, and settings are drawn at random.
_FREE = 5


def tune(
    config: FineTuneConfig,
    workdir: str | os.PathLike[str],
    data: Any = None,
    *,
    trials: int | None = None,
    minutes: float | None = None,
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
        command: how it was started, for the report.
        stop: for the final run, as in `fine_tune`.
        say: where lines for people go.

    Returns:
        The result of the final run.

    Raises:
        UserError: for a mistake in the configuration, the space or the data.
    """
    budget = dataclasses.replace(
        config.tune,
        trials=config.tune.trials if trials is None else trials,
        minutes=config.tune.minutes if minutes is None else minutes,
    )
    config, run = dataclasses.replace(config, tune=budget), Path(workdir)
    config.validate()
    space = read_space(config)
    _check(config)
    check_writable(run)
    # Each trial has graphs of its own.
    with locked(run), quiet.without_retracing():
        _begin(run, config)
        study = _study(config, run)
        _take_up(study, config, space)
        while _goes_on(study, budget):
            _one(study, config, space, run, data, say)
        best = _keep(study, config, space, run)
        say(f"best of {len(_ended(study))} trials: {study.best_value:.4f}; now the run with it")
        return fine_tune(best, run / BEST, data, command=command, stop=stop, say=say)


def _check(config: FineTuneConfig) -> None:
    if importlib.util.find_spec("optuna") is None:
        raise UserError('tuning needs optuna; run `pip install "tf_finetune[tune]"`.')
    if config.fit.strategy != "none":
        raise UserError(
            f'config.fit.strategy is "{config.fit.strategy}"; tuning runs on one device so far: '
            'set it to "none", and train with the recipe it finds on more.'
        )


def _begin(run: Path, config: FineTuneConfig) -> None:
    """Makes the folder that of a tuning, or checks that it is the same one's."""
    file = run / CONFIG
    if not file.exists():
        if others := sorted({path.name for path in run.iterdir()} - {".lock"}):
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


def _study(config: FineTuneConfig, run: Path) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=f"sqlite:///{(run / TRIALS).resolve()}",
        study_name="tune",
        direction="maximize" if heads.monitor(config.model.task)[1] == "max" else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_FREE),
        load_if_exists=True,
    )


def _take_up(study: Any, config: FineTuneConfig, space: Space) -> None:
    """Puts a trial that was cut off in front again; at the start, the recipe's own settings."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)
    if not study.get_trials(deepcopy=False):
        own = own_values(config, space)
        if own is not None:
            study.enqueue_trial(own)


def _ended(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    states = [TrialState.COMPLETE, TrialState.PRUNED]
    return study.get_trials(deepcopy=False, states=states)


def _goes_on(study: Any, budget: TuneConfig) -> bool:
    ended = _ended(study)
    spent = sum(trial.user_attrs["seconds"] for trial in ended)
    in_time = not budget.minutes or spent < 60 * budget.minutes
    return len(ended) < budget.trials and (in_time or not ended)


def _one(
    study: Any,
    config: FineTuneConfig,
    space: Space,
    run: Path,
    data: Any,
    say: Callable[[str], None],
) -> None:
    """Asks for settings, tries them and tells what came of it."""
    import optuna

    number = len(_ended(study)) + 1
    # By its number, so that a tuning that was stopped comes to the same trials.
    study.sampler = optuna.samplers.TPESampler(
        seed=config.fit.seed + number, n_startup_trials=_FREE
    )
    trial = study.ask()
    values = suggested(trial, space, config)
    say(f"trial {number}: " + ", ".join(f"{key}={value}" for key, value in values.items()))
    figures: list[float] = []

    def reached(figure: float, last: bool) -> None:
        figures.append(figure)
        trial.report(figure, step=len(figures))
        say(f"trial {number}: {figure:.4f} after phase {len(figures)}")
        if not last and trial.should_prune():
            raise optuna.TrialPruned

    began, folder = time.perf_counter(), run / _TRIAL
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    state, how = None, "finished"
    try:
        tried = dataclasses.replace(with_values(config, values), tune=TuneConfig())
        tried.validate()
        digest = run_trial(tried, folder, run / "cache", data, reached, _nowhere)
        _check_same(study, digest, run)
    except optuna.TrialPruned:
        state, how = optuna.trial.TrialState.PRUNED, "pruned"
    except Diverged:
        state, how = optuna.trial.TrialState.PRUNED, "diverged"
    shutil.rmtree(folder, ignore_errors=True)
    trial.set_user_attr("figures", figures)
    trial.set_user_attr("how", how)
    trial.set_user_attr("seconds", time.perf_counter() - began)
    if state:
        study.tell(trial, state=state)
        say(f"trial {number}: {how}")
    else:
        study.tell(trial, figures[-1])


def _check_same(study: Any, digest: str, run: Path) -> None:
    if study.user_attrs.get("data", digest) != digest:
        raise UserError(f'"{run}" holds a tuning on other data; choose another workdir.')
    study.set_user_attr("data", digest)


def _keep(study: Any, config: FineTuneConfig, space: Space, run: Path) -> FineTuneConfig:
    """Writes the table and the recipe; returns the best configuration."""
    from optuna.trial import TrialState

    ended = _ended(study)
    if not any(trial.state == TrialState.COMPLETE for trial in ended):
        raise UserError(
            f"all {len(ended)} trials diverged; give config.tune.space lower rates, in another "
            "workdir."
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
        for trial in ended
    ]
    write_atomically(run / TOLD, account(monitor, list(space), rows))
    chosen = dataclasses.replace(with_values(config, best.params), tune=TuneConfig())
    opening = f"The best of {len(ended)} trials, {monitor} {best.value:.4f}; see tuning.md."
    write_atomically(run / RECIPE, recipe(chosen, opening))
    return chosen


def _nowhere(line: str) -> None:
    """Takes what a trial says of its steps."""
