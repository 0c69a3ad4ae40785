"""Runs under a strategy that were killed: started again, they end bit for bit the same."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distribution.processes import cluster, environment, together
from tests.reliability.comparing import differences
from tests.runs import classes, save_preset

pytestmark = pytest.mark.slow

SECONDS = 400


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    save_preset(folder / "tiny.keras")
    table = classes(160)
    with (folder / "texts.csv").open("w", newline="") as out:
        csv.writer(out).writerows([table.keys(), *zip(*table.values(), strict=True)])
    return folder


def command(data: Path, workdir: Path, strategy: str) -> list[str]:
    return [
        *(sys.executable, "-m", "tf_finetune.main", f"--workdir={workdir}"),
        f"--config.data.path={data / 'texts.csv'}",
        "--config.data.near_duplicates=0.0",
        f"--config.model.preset={data / 'tiny.keras'}",
        "--config.model.sequence_length=16",
        f"--config.fit.strategy={strategy}",
        "--config.fit.precision=float32",
        "--config.fit.epochs=8",
        "--config.fit.probe_epochs=3",
        "--config.fit.ema=0.9",
        "--config.fit.save_every=1",
        "--config.results.export=False",
        "--config.results.bootstrap=100",
    ]


def killed(line: list[str], environments: list[dict], workdir: Path, victim: int) -> list[str]:
    """Starts workers, kills one within the last phase, and returns what all have said."""
    running = [
        subprocess.Popen(line, env=e, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for e in environments
    ]
    try:
        wait_for(workdir, "tune", running)
        running[victim].kill()
        said = [process.communicate(timeout=60)[0] for process in running]
        assert all(process.returncode for process in running), said
        return said
    finally:
        for process in running:
            process.kill()
            process.wait()


def wait_for(workdir: Path, phase: str, running: list[subprocess.Popen]) -> None:
    """Until an epoch of a phase has been written down."""
    end = time.monotonic() + SECONDS
    history = workdir / "metrics.jsonl"
    while not history.exists() or history.read_text().count(f'"phase": "{phase}"') < 3:
        assert time.monotonic() < end
        assert all(process.poll() is None for process in running)
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("strategy", "victim"), [("mirrored", 0), ("multi_worker", 0), ("multi_worker", 1)]
)
def test_killed_and_started_again(strategy, victim, data, tmp_path):
    def places() -> list[dict]:
        if strategy == "multi_worker":
            return cluster(2)
        return [environment(TF_FINETUNE_LOGICAL_CPUS="2")]

    def started(workdir: Path) -> list[tuple[int, str]]:
        around = places()
        return together([command(data, workdir, strategy)] * len(around), around)

    whole, run = tmp_path / "whole", tmp_path / "killed"
    assert [status for status, _ in started(whole)] == [0] * len(places())
    said = killed(command(data, run, strategy), places(), run, victim)
    if strategy == "multi_worker":
        assert f"worker {victim}" in said[1 - victim], said[1 - victim][-3000:]
    again = started(run)
    assert [status for status, _ in again] == [0] * len(again), again
    assert "goes on from phase tune, epoch" in again[0][1]
    assert differences(whole, run) == []
