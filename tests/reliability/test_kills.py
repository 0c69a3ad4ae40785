"""Real processes, killed at random moments; the moments follow from seeds."""

from __future__ import annotations

import csv
import dataclasses
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import runs
from tests.reliability.comparing import differences
from tests.reliability.killing import killed_and_resumed

Command = Callable[..., list[str]]

RECIPES = {
    "full, shortly": ["--config.phases=full", "--config.fit.ema=0.9"],
    "probe_then_tune": ["--config.fit.ema=0.9", "--config.results.export=True"],
    "gradual": ["--config.phases=gradual", "--config.fit.r_drop=0.5"],
    "lora": ["--config.phases=lora", "--config.fit.patience=2"],
    "full": [
        "--config.phases=full",
        "--config.fit.mixup=0.3",
        "--config.fit.schedule=plateau",
        "--config.fit.micro_batch=5",
        "--config.fit.interpolate=True",
    ],
    "several a call": ["--config.fit.steps_per_execution=4", "--config.fit.cache=False"],
}


@pytest.fixture(scope="module")
def command(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    folder = tmp_path_factory.mktemp("data")
    table = runs.classes(160)
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([table.keys(), *zip(*table.values(), strict=True)])

    def line(workdir: Path, *more: str) -> list[str]:
        return [
            *(sys.executable, "-m", "tf_finetune.main", f"--workdir={workdir}"),
            f"--config.data.path={folder / 'texts.csv'}",
            "--config.data.near_duplicates=0.0",
            f"--config.model.preset={preset}",
            "--config.model.sequence_length=16",
            "--config.fit.precision=float32",
            "--config.fit.epochs=6",
            "--config.fit.probe_epochs=3",
            "--config.results.probe_baseline=False",
            "--config.fit.global_batch=4",
            "--config.fit.save_every=3",
            "--config.results.export=False",
            "--config.results.bootstrap=100",
            *more,
        ]

    return line


@dataclasses.dataclass
class Whole:
    """Runs that nothing disturbed, each made once."""

    command: Command
    folder: Path
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def of(self, recipe: str) -> Path:
        run = self.folder / recipe.replace(", ", "-")
        if not run.exists():
            done = killed_and_resumed(self.command(run, *RECIPES[recipe]), 0, 0)
            assert done.status == 0, done.said
            self.seconds[recipe] = done.seconds
        return run


@pytest.fixture(scope="module")
def whole(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(command, tmp_path_factory.mktemp("whole"))


def check(whole: Whole, recipe: str, seed: int, kills: int, run: Path) -> int:
    """Kills a run, and compares its end; returns how often it was killed."""
    expected, given = whole.of(recipe), whole.command(run, *RECIPES[recipe])
    how = {"seconds": whole.seconds[recipe], "workdir": run}
    done = killed_and_resumed(given, seed, kills, **how, in_training=kills < 3)
    assert done.status == 0, done.said
    assert not [text for text in done.said if "Traceback" in text], done.said
    assert differences(expected, run) == [], done.said
    for text in done.said[1 : len(done.said) if kills < 3 else 0]:
        assert "goes on from " in text
    return done.kills


def test_a_few_kills(whole: Whole, tmp_path: Path) -> None:
    assert check(whole, "full, shortly", 1, 2, tmp_path / "run") == 2


@pytest.mark.slow
def test_forty_kills(whole: Whole, tmp_path: Path) -> None:
    done, seed = 0, 100
    while done < 40:
        for recipe in RECIPES:
            seed += 1
            done += check(whole, recipe, seed, 4, tmp_path / str(seed))


def test_sigterm_saves_and_goes_on(whole: Whole, command: Command, tmp_path: Path) -> None:
    recipe, run = "full, shortly", tmp_path / "run"
    expected, given = whole.of(recipe), command(run, *RECIPES[recipe])
    how = {"workdir": run, "in_training": True, "number": signal.SIGTERM}
    done = killed_and_resumed(given, 3, 2, **how)
    assert done.status == 0, done.said
    assert done.kills == 2
    for text in done.said[: done.kills]:
        *_, last = text.strip().splitlines()
        assert last.startswith("tf-finetune: stopped by SIGTERM; the same command goes on from ")
        assert "Traceback" not in text
    assert differences(expected, run) == []
