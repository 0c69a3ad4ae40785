"""Real processes, killed at random moments of each stage; the moments follow from seeds."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests import runs
from tests.reliability.comparing import differences
from tests.reliability.killing import killed_and_resumed
from tests.reliability.starts import started
from tf_finetune.proof.moments import STAGES, Moment

pytestmark = pytest.mark.slow

CACHE, EPOCH, SAVE, VALIDATION, BETWEEN, EVALUATION, EXPORT = (
    "while features are cached",
    "in an epoch",
    "in a save",
    "in a validation",
    "between two phases",
    "in the evaluation",
    "in the export",
)
# Up to which call of a stage, and how many seconds after its begin.
LATEST = {
    CACHE: (1, 0.2),
    EPOCH: (3, 0.02),
    SAVE: (2, 0.01),
    VALIDATION: (2, 0.02),
    BETWEEN: (1, 0.1),
    EVALUATION: (1, 0.5),
    EXPORT: (1, 4.0),
}
RECIPES = {
    "probe_then_tune": ["--config.fit.ema=0.9", "--config.results.export=True"],
    "gradual": ["--config.phases=gradual", "--config.fit.r_drop=0.5"],
    "lora": ["--config.phases=lora", "--config.fit.patience=2", "--config.results.export=True"],
    "full": [
        "--config.phases=full",
        "--config.fit.mixup=0.3",
        "--config.fit.schedule=plateau",
        "--config.fit.micro_batch=5",
        "--config.fit.interpolate=0",
        "--config.results.probe_baseline=False",
    ],
    "beside a baseline": ["--config.phases=full", "--config.fit.l2_sp=0.1"],
    "several a call": ["--config.fit.steps_per_execution=4", "--config.fit.cache=False"],
}
# A run is killed in one stage after the other, so these come in a run's order.
KILLS = {
    "probe_then_tune": [CACHE, EPOCH, SAVE, BETWEEN, VALIDATION, EPOCH, EVALUATION, EXPORT, EXPORT],
    "gradual": [CACHE, VALIDATION, BETWEEN, EPOCH, BETWEEN, SAVE, EVALUATION],
    "lora": [EPOCH, SAVE, BETWEEN, VALIDATION, SAVE, EVALUATION, EXPORT],
    "full": [EPOCH, SAVE, EPOCH, VALIDATION, SAVE, EPOCH, EVALUATION],
    "beside a baseline": [CACHE, EPOCH, SAVE, BETWEEN, EPOCH, SAVE, EVALUATION],
    "several a call": [EPOCH, SAVE, BETWEEN, VALIDATION, EPOCH, EVALUATION],
}


@dataclasses.dataclass
class Runs:
    """Commands of runs, and those that nothing disturbed, each made once."""

    folder: Path
    preset: Path
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def command(self, recipe: str, run: Path) -> list[str]:
        return [
            f"--workdir={run}",
            f"--config.data.path={self.folder / 'texts.csv'}",
            "--config.data.near_duplicates=0.0",
            f"--config.model.preset={self.preset}",
            "--config.model.sequence_length=16",
            "--config.fit.precision=float32",
            "--config.fit.epochs=3",
            "--config.fit.probe_epochs=2",
            "--config.fit.global_batch=8",
            "--config.fit.save_every=3",
            "--config.results.bootstrap=100",
            *([] if "export=True" in str(RECIPES[recipe]) else ["--config.results.export=False"]),
            *RECIPES[recipe],
        ]

    def typed(self, recipe: str, run: Path) -> list[str]:
        return [sys.executable, "-m", "tf_finetune.main", *self.command(recipe, run)]

    def whole(self, recipe: str) -> Path:
        run, log = self.folder / recipe, self.folder / f"{recipe}.txt"
        if not run.exists():
            began = time.monotonic()
            assert started(self.command(recipe, run), log) == 0, log.read_text()
            self.seconds[recipe] = time.monotonic() - began
        return run


@pytest.fixture(scope="module")
def made(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("made")
    table = runs.classes(160)
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([table.keys(), *zip(*table.values(), strict=True)])
    return Runs(folder, preset)


def test_forty_kills_and_more_in_all_stages() -> None:
    stages = [stage for kills in KILLS.values() for stage in kills]
    assert len(stages) >= 40
    assert set(stages) == STAGES.keys()


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_in_each_stage(recipe: str, made: Runs, tmp_path: Path) -> None:
    moments, run, log = random.Random(f"1 {recipe}"), tmp_path / "run", tmp_path / "said.txt"
    whole, command = made.whole(recipe), made.command(recipe, run)
    for stage in KILLS[recipe]:
        calls, seconds = LATEST[stage]
        moment = Moment(stage, moments.randint(1, calls), moments.uniform(0, seconds))
        assert started(command, log, moment) == -signal.SIGKILL, (moment, log.read_text())
        assert "Traceback" not in log.read_text()
    assert started(command, log) == 0, log.read_text()
    assert "goes on from the end of phase" in log.read_text()
    assert differences(whole, run) == []


def test_the_command_itself_killed_at_any_time(made: Runs, tmp_path: Path) -> None:
    """From outside: also while it starts, reads data or reports."""
    recipe, run = "probe_then_tune", tmp_path / "run"
    whole, command = made.whole(recipe), made.typed(recipe, run)
    done = killed_and_resumed(command, 2, 4, seconds=made.seconds[recipe], workdir=run)
    assert done.status == 0, done.said
    assert "Traceback" not in "".join(done.said), done.said
    assert done.kills >= 1
    assert differences(whole, run) == []


def test_sigterm_to_the_command_itself(made: Runs, tmp_path: Path) -> None:
    recipe, run = "gradual", tmp_path / "run"
    whole, command = made.whole(recipe), made.typed(recipe, run)
    how = {"workdir": run, "in_training": True, "number": signal.SIGTERM}
    done = killed_and_resumed(command, 3, 2, **how)
    assert done.status == 0, done.said
    assert done.kills == 2
    for text in done.said[: done.kills]:
        *_, last = text.strip().splitlines()
        assert last.startswith("tf-finetune: stopped by SIGTERM; the same command goes on from ")
        assert "Traceback" not in text
    assert differences(whole, run) == []


def test_sigterm_in_each_stage(made: Runs, tmp_path: Path) -> None:
    recipe, run, log = "probe_then_tune", tmp_path / "run", tmp_path / "said.txt"
    whole, command = made.whole(recipe), made.command(recipe, run)
    places = {
        Moment(CACHE): "the beginning",
        Moment(EPOCH, 5): "phase probe, epoch 1, update [56]",  # this batch, or the next
        Moment(VALIDATION): r"phase probe, epoch (1, update \d+|2, update 0)",
        Moment(BETWEEN, 1, 3.0): "the end of phase probe",
        Moment(VALIDATION, 3): r"phase tune, epoch \d, update \d+",
        Moment(EVALUATION, 1, 0.05): "the end of phase tune",
        Moment(EXPORT, 1, 0.5): "the end of phase tune",
        Moment(EXPORT, 1, 3.0): "the end of phase tune",
    }
    for moment, place in places.items():
        status = started(command, log, moment, signal.SIGTERM)
        said = log.read_text()
        assert status == 143, (moment, said)
        assert "Traceback" not in said
        *_, last = said.strip().splitlines()
        line = f"tf-finetune: stopped by SIGTERM; the same command goes on from {place}."
        assert re.fullmatch(line, last), (moment, said)
        assert [*run.rglob("writing-*"), *run.rglob(".1.*")] == []
    assert started(command, log) == 0, log.read_text()
    assert differences(whole, run) == []
    assert json.loads((run / "metrics.json").read_text())["resumed"] == 7
