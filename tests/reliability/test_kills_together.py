"""Runs under a strategy, killed at random moments; the moments follow from seeds."""

from __future__ import annotations

import csv
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import runs
from tests.distribution.processes import cluster, environment
from tests.reliability.comparing import differences
from tests.reliability.killing import Killing
from tests.reliability.killing_together import killed_together

pytestmark = pytest.mark.slow

Start = Callable[..., Killing]
RECIPES = {
    "probe_then_tune": ["--config.fit.ema=0.9", "--config.fit.r_drop=0.5"],
    "full": [
        "--config.phases=full",
        "--config.fit.mixup=0.3",
        "--config.fit.schedule=plateau",
        "--config.fit.micro_batch=2",
        "--config.fit.steps_per_execution=2",
    ],
}
WITHIN_AN_EPOCH = tuple(f"update {n}" for n in range(1, 30))


def around(strategy: str) -> list[dict[str, str]]:
    if strategy == "multi_worker":
        return cluster(2)
    return [environment(TF_FINETUNE_LOGICAL_CPUS="2")]


@pytest.fixture(scope="module")
def start(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("data")
    table = runs.classes(160)
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([table.keys(), *zip(*table.values(), strict=True)])

    def started(strategy: str, recipe: str, workdir: Path, *how: object) -> Killing:
        command = [
            *(sys.executable, "-m", "tf_finetune.main", f"--workdir={workdir}"),
            f"--config.data.path={folder / 'texts.csv'}",
            "--config.data.near_duplicates=0.0",
            f"--config.model.preset={preset}",
            "--config.model.sequence_length=16",
            f"--config.fit.strategy={strategy}",
            "--config.fit.precision=float32",
            "--config.fit.epochs=4",
            "--config.fit.probe_epochs=2",
            "--config.results.probe_baseline=False",
            "--config.fit.global_batch=8",
            "--config.fit.save_every=3",
            "--config.results.export=False",
            "--config.results.bootstrap=100",
            *RECIPES[recipe],
        ]
        seed, victims, *number = how or (0, ())
        return killed_together(command, lambda: around(strategy), seed, victims, workdir, *number)

    return started


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Runs that nothing disturbed, each made once."""
    folder, made = tmp_path_factory.mktemp("whole"), set()

    def run(strategy: str, recipe: str) -> Path:
        workdir = folder / strategy / recipe
        if workdir not in made:
            done = start(strategy, recipe, workdir)
            assert done.status == 0, done.said
            made.add(workdir)
        return workdir

    return run


def check(done: Killing, expected: Path, run: Path) -> None:
    assert done.status == 0, done.said
    assert not [words for words in done.said if "Traceback" in words], done.said
    assert differences(expected, run) == [], done.said
    for words in done.said[1:]:
        assert "goes on from " in words


@pytest.mark.parametrize(("recipe", "seed"), [("full", 1), ("probe_then_tune", 2)])
def test_ten_kills_of_the_chief_and_the_other(recipe, seed, start, whole, tmp_path: Path) -> None:
    """Half of the ten with each recipe."""
    victims = [0, 1, seed % 2, 0, 1]
    random.Random(seed).shuffle(victims)
    places: list[str] = []
    while victims:
        run = tmp_path / str(len(victims))
        found = start("multi_worker", recipe, run, seed + len(victims), victims)
        check(found, whole("multi_worker", recipe), run)
        assert found.kills
        assert found.seconds < 30
        del victims[: found.kills]
        places += [line for words in found.said for line in words.splitlines() if "goes on" in line]
    assert [line for line in places if line.endswith(WITHIN_AN_EPOCH)]


def test_kills_on_two_devices(start, whole, tmp_path: Path) -> None:
    found = start("mirrored", "full", tmp_path / "run", 7, [0, 0])
    check(found, whole("mirrored", "full"), tmp_path / "run")
    assert found.kills == 2


@pytest.mark.parametrize(("strategy", "victims"), [("mirrored", [0]), ("multi_worker", [1, 0])])
def test_sigterm_saves_the_batch(strategy, victims, start, whole, tmp_path: Path) -> None:
    run = tmp_path / "run"
    found = start(strategy, "full", run, 3, victims, signal.SIGTERM)
    check(found, whole(strategy, "full"), run)
    assert found.kills == len(victims)
    for words, after in zip(found.said, found.said[1:], strict=False):
        *_, last = words.strip().removesuffix(".").splitlines()
        beginning = "tf-finetune: stopped by SIGTERM; the same command goes on from "
        assert last.startswith(beginning), words
        assert f"goes on from {last.removeprefix(beginning)}" in after
