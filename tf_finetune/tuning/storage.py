"""The trials of a tuning, as Optuna keeps them in its folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tf_finetune.config import FineTuneConfig
from tf_finetune.model import heads
from tf_finetune.settings import TuneConfig
from tf_finetune.tuning.space import Space, own_values

TRIALS = "trials.db"
# Before these no trial is pruned, and settings are drawn at random.
FREE = 5
# Seconds that a worker waits while another writes.
_PATIENCE = 60


def open_study(config: FineTuneConfig, run: Path) -> Any:
    """The Optuna study of a tuning, made where there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{(run / TRIALS).resolve()}",
        engine_kwargs={"connect_args": {"timeout": _PATIENCE}},
    )
    return optuna.create_study(
        storage=storage,
        study_name="tune",
        direction="maximize" if heads.monitor(config.model.task)[1] == "max" else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FREE),
        load_if_exists=True,
    )


def take_up(study: Any, config: FineTuneConfig, space: Space) -> None:
    """Puts trials that were cut off in front again; at the start, the recipe's own settings."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
        how, figures = (trial.user_attrs.get(key) for key in ("how", "figures"))
        if how == "finished":
            study.tell(trial.number, figures[-1])
        elif how:
            study.tell(trial.number, state=TrialState.PRUNED)
        else:
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params)
    if not study.get_trials(deepcopy=False):
        own = own_values(config, space)
        if own is not None:
            study.enqueue_trial(own)


def ended(study: Any) -> list[Any]:
    """Trials that have come to an end: all but those that were cut off or are running."""
    return [trial for trial in study.get_trials(deepcopy=False) if "how" in trial.user_attrs]


def next_number(study: Any, budget: TuneConfig) -> int:
    """Of the trial that may begin now, counted from 1; 0 where the budget is used up."""
    from optuna.trial import TrialState

    # Of one reading: another worker may end a trial meanwhile.
    trials = study.get_trials(deepcopy=False)
    done = [trial for trial in trials if "how" in trial.user_attrs]
    running = [t for t in trials if t.state == TrialState.RUNNING and "how" not in t.user_attrs]
    begun = len(done) + len(running)
    spent = sum(trial.user_attrs["seconds"] for trial in done) / budget.workers
    in_time = not budget.minutes or spent < 60 * budget.minutes
    return begun + 1 if begun < budget.trials and (in_time or not begun) else 0


@contextlib.contextmanager
def one_at_a_time(run: Path) -> Iterator[None]:
    """Within it no other worker of the tuning asks for settings."""
    folder = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
