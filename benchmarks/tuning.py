"""What sharing frozen work between the trials of a tuning saves: the same trials, both ways.

    python benchmarks/tuning.py [--rows=1024] [--trials=20] [--phases=probe]

Tunes the reviews recipe twice in one process, a small tuning before them: with
`fit.cache=True`, by which the trials share what the frozen backbone gives, and without.
Prints the time of the trials by either, the ratio, and how far the figures of a trial are
apart. The run with the best settings at a tuning's end is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from remedies import CONFIG

from tf_finetune import tune
from tf_finetune.config import FineTuneConfig
from tf_finetune.recipe import load_recipe
from tf_finetune.tuning.storage import TRIALS


def recipe(rows: int, phases: str, cache: bool) -> FineTuneConfig:
    """The reviews recipe on some training rows, with nothing after its phases but scores."""
    config = load_recipe(CONFIG)
    config.data.limit, config.phases, config.fit.cache = rows, phases, cache
    results = config.results
    results.export = results.probe_baseline = results.label_audit = results.drift = False
    return config


def trials_of(config: FineTuneConfig, trials: int) -> tuple[float, np.ndarray]:
    """Seconds of all trials, and the validation figure of each."""
    import optuna

    with tempfile.TemporaryDirectory() as folder:
        tune(config, folder, trials=trials, say=lambda line: None)
        storage = f"sqlite:///{Path(folder) / TRIALS}"
        ended = optuna.load_study(study_name="tune", storage=storage).trials
    assert len(ended) == trials, [trial.state for trial in ended]
    seconds = sum(trial.user_attrs["seconds"] for trial in ended)
    return seconds, np.array([trial.user_attrs["figures"][-1] for trial in ended])


def main() -> None:
    """Reads the command line, tunes both ways and prints what it came to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--phases", default="probe")
    options = parser.parse_args()
    trials_of(recipe(64, options.phases, cache=True), 1)  # what is loaded once
    shared, figures = trials_of(recipe(options.rows, options.phases, cache=True), options.trials)
    print(f"shared: {shared:.1f} s in {options.trials} trials", flush=True)
    without, others = trials_of(recipe(options.rows, options.phases, cache=False), options.trials)
    print(f"without: {without:.1f} s; {without / shared:.1f} times as long")
    print(f"largest difference of a trial's figure: {np.abs(figures - others).max():.4f}")


if __name__ == "__main__":
    main()
