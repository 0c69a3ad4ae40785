"""Trials of a tuning, one after another as long as its budget lasts."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.assemble import set_up
from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import UserError
from tf_finetune.fit.audit import AuditError
from tf_finetune.fit.spike_guard import Diverged
from tf_finetune.settings import TuneConfig
from tf_finetune.tuning.space import Space, suggested, with_values
from tf_finetune.tuning.storage import FREE, next_number, one_at_a_time
from tf_finetune.tuning.trials import run_trial


def try_settings(
    study: Any,
    config: FineTuneConfig,
    space: Space,
    run: Path,
    data: Any,
    say: Callable[[str], None],
    worker: int = 0,
) -> None:
    """Asks for settings, tries them and tells what came of it, again and again.

    Args:
        study: of `open_study`; others may be at it too.
        config: of the tuning.
        space: what is tried.
        run: the folder of the tuning.
        data: as in `fine_tune`.
        say: where lines for people go.
        worker: of several, which has folders of its own.
    """
    suffix = f"-{worker}" if worker else ""
    folder, cache = run / f"trial{suffix}", run / f"cache{suffix}"
    while (asked := _asked(study, config, space, run)) is not None:
        trial, number, values = asked
        say(f"trial {number}: " + ", ".join(f"{key}={value}" for key, value in values.items()))
        _one(study, trial, number, values, config, folder, cache, data, say)


def _asked(
    study: Any, config: FineTuneConfig, space: Space, run: Path
) -> tuple[Any, int, dict[str, Any]] | None:
    """The next trial, its number and its settings; None where the budget is used up."""
    import optuna

    with one_at_a_time(run):
        number = next_number(study, config.tune)
        if not number:
            return None
        # By its number, so that a tuning that was stopped comes to the same trials.
        study.sampler = optuna.samplers.TPESampler(
            seed=config.fit.seed + number, n_startup_trials=FREE
        )
        trial = study.ask()
        return trial, number, suggested(trial, space, config)


def _one(
    study: Any,
    trial: Any,
    number: int,
    values: dict[str, Any],
    config: FineTuneConfig,
    folder: Path,
    cache: Path,
    data: Any,
    say: Callable[[str], None],
) -> None:
    import optuna

    tried = dataclasses.replace(with_values(config, values), tune=TuneConfig())
    figures: list[float] = []

    def reached(figure: float, last: bool) -> None:
        figures.append(figure)
        trial.report(figure, step=len(figures))
        say(f"trial {number}: {figure:.4f} after phase {len(figures)}")
        # Of another recipe the phase of this number is another one.
        if not last and "phases" not in trial.params and trial.should_prune():
            raise optuna.TrialPruned

    began = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    how, mistake, digest = "finished", _refused(tried), ""
    try:
        if not mistake:
            digest = run_trial(tried, folder, cache, data, reached, _nowhere)
    except optuna.TrialPruned:
        how = "pruned"
    except Diverged:
        how = "diverged"
    except (tf.errors.ResourceExhaustedError, AuditError) as error:
        # Else the same trial would be the first one of the next call too.
        how = "failed"
        say(f"trial {number}: {str(error).splitlines()[0]}")
    except UserError as error:
        # What is wrong with the data, or the recipe's own settings, is so in every trial.
        _check_itself(config, cache, data)
        mistake = str(error)
    if digest:
        check_same(study, digest, folder.parent)
    how = "refused" if mistake else how
    shutil.rmtree(folder, ignore_errors=True)
    trial.set_user_attr("figures", figures)
    trial.set_user_attr("seconds", time.perf_counter() - began)
    # From here on it counts as ended, whatever happens.
    trial.set_user_attr("how", how)
    if how != "finished":
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        say(f"trial {number}: {how}{': ' + mistake if mistake else ''}")
    else:
        study.tell(trial, figures[-1])


def _check_itself(config: FineTuneConfig, cache: Path, data: Any) -> None:
    """Raises `UserError` for what is wrong whatever is tried."""
    try:
        set_up(config, cache, data, say=_nowhere)
    finally:
        keras.backend.clear_session()


def _refused(config: FineTuneConfig) -> str:
    """What is wrong with settings that are allowed each by itself; empty if nothing is."""
    try:
        config.validate()
    except UserError as error:
        return str(error)
    return ""


def check_same(study: Any, digest: str, run: Path) -> None:
    """Raises `UserError` where the trials of a tuning were on other data."""
    if study.user_attrs.get("data", digest) != digest:
        raise UserError(f'"{run}" holds a tuning on other data; choose another workdir.')
    study.set_user_attr("data", digest)


def _nowhere(line: str) -> None:
    """Takes what a trial says of its steps."""
