"""Trials in several processes at a time."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import runs
from tf_finetune.errors import UserError
from tf_finetune.tuning import study as module
from tf_finetune.tuning.study import tune

optuna = pytest.importorskip("optuna", reason="optuna is not installed")
SPACE = {"fit.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "model.dropout": [0.0, 0.3]}


@pytest.fixture
def config(preset, tmp_path):
    table = runs.classes()
    with (tmp_path / "texts.csv").open("w", newline="") as out:
        csv.writer(out).writerows([table.keys(), *zip(*table.values(), strict=True)])
    config = runs.config_for(preset, dropout=0.0, path=str(tmp_path / "texts.csv"))
    config.tune.space = SPACE
    return config


def test_workers_share_the_trials_of_a_budget(config, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "fine_tune", lambda config, *_, **__: SimpleNamespace(config=config)
    )
    said = []
    best = tune(config, tmp_path / "run", trials=4, workers=2, say=said.append)
    study = optuna.load_study(
        study_name="tune", storage=f"sqlite:///{tmp_path / 'run' / 'trials.db'}"
    )
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    settings = [tuple(trial.params.values()) for trial in study.trials]
    assert settings[0] == (1e-4, 0.0)  # the recipe's own
    assert len({*settings}) == 4
    assert best.config.fit.learning_rate == study.best_trial.params["fit.learning_rate"]
    for number in range(2):
        assert any(line.startswith(f"worker {number}: trial ") for line in said), said
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("best.py", "cache", "cache-1", "trials.db", "tuning.json", "tuning.md")
    ]
    # Nobody reads a trial's number twice, and none is left at it.
    begun = [line.partition(": trial ")[2].partition(":")[0] for line in said if "rate=" in line]
    assert sorted(begun) == ["1", "2", "3", "4"]


def test_a_mistake_that_a_worker_finds_is_told(config, tmp_path):
    config.data.label = "stars"
    with pytest.raises(UserError, match="stars"):
        tune(config, tmp_path / "run", trials=4, workers=2, say=lambda line: None)


def test_data_from_python_and_numbers_that_cannot_be(config, tmp_path):
    with pytest.raises(UserError, match="workers is 2, but data is given from Python"):
        tune(config, tmp_path / "run", runs.classes(), workers=2)
    with pytest.raises(UserError, match=r"config.tune.workers is 0; it must be at least 1"):
        tune(config, tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_workers_end_with_who_started_them(config, tmp_path):
    recipe = tmp_path / "config.json"
    recipe.write_text(config.to_json())
    script = (
        "import sys; from tf_finetune import FineTuneConfig, tune; "
        "config = FineTuneConfig.from_json(open(sys.argv[1]).read()); "
        "tune(config, sys.argv[2], trials=50, workers=2, say=lambda s: print(s, flush=True))"
    )
    command = [sys.executable, "-c", script, str(recipe), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("worker "):
                break
        assert len(_workers(tmp_path / "run")) == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    end = time.monotonic() + 60
    while _workers(tmp_path / "run"):
        assert time.monotonic() < end, "they go on"
        time.sleep(0.1)


def test_a_worker_that_is_killed_ends_the_others_and_it_goes_on(config, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "fine_tune", lambda config, *_, **__: SimpleNamespace(config=config)
    )
    run, said = tmp_path / "run", []

    def kill(line):
        said.append(line)
        if line.startswith("worker 1: trial ") and "after phase 1" in line:
            os.kill(_numbered(run, 1), signal.SIGKILL)

    with pytest.raises(UserError, match=r"worker 1 was killed by signal 9.*config\.tune\.workers"):
        tune(config, run, trials=5, workers=2, say=kill)
    assert not _workers(run)
    said.clear()
    tune(config, run, trials=5, workers=2, say=said.append)
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{run / 'trials.db'}")
    ended = [trial for trial in study.trials if "how" in trial.user_attrs]
    assert len(ended) == 5
    cut_off = [trial.params for trial in study.trials if trial.state.name == "FAIL"]
    assert cut_off
    assert all(params in [trial.params for trial in ended] for params in cut_off)


def _numbered(run: Path, number: int) -> int:
    for process in _workers(run):
        words = Path("/proc", str(process), "cmdline").read_bytes().split(b"\0")
        if words[-2] == str(number).encode():
            return process
    raise LookupError(f"worker {number} is not there")


def _workers(run: Path) -> list[int]:
    """The processes that are at the trials of a folder."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"tf_finetune.tuning.workers" in words and os.fsencode(run) in words:
            found.append(int(name))
    return found
