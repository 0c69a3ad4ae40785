"""Mistakes over several workers, made by the real command: one message each, and status 2."""

from __future__ import annotations

import csv
import json
import socket
import sys
from pathlib import Path

import pytest

from tests.distribution.processes import cluster, environment, together
from tests.runs import classes
from tests.tiny import tiny_task

pytestmark = pytest.mark.slow

OLDER = (
    "import sys, tf_finetune.taking_part as part; from tf_finetune.main import run;"
    "found = part.versions(); part.versions = lambda: {**found, 'keras': '3.14.0'};"
    "sys.exit(run())"
)


@pytest.fixture
def line(preset: Path, tmp_path: Path):
    """A worker's command on data of so many rows."""

    def made(*more: str, rows: int = 75, start: tuple[str, ...] = ("-m", "tf_finetune.main")):
        file, table = tmp_path / f"{rows}.csv", classes(rows)
        with file.open("w", newline="") as out:
            csv.writer(out).writerows([table.keys(), *zip(*table.values(), strict=True)])
        return [
            *(sys.executable, *start, f"--workdir={tmp_path}/run"),
            f"--config.data.path={file}",
            "--config.data.near_duplicates=0",
            f"--config.model.preset={preset}",
            "--config.fit.strategy=multi_worker",
            *more,
        ]

    return made


def refused(commands: list[list[str]], around: list[dict[str, str]], workdir: Path) -> list[str]:
    """What workers say that all end with status 2."""
    ends = together(commands, around)
    assert [status for status, _ in ends] == [2] * len(ends), ends
    assert not (workdir / "config.json").exists()
    for _, words in ends:
        assert words.count("tf-finetune: ") == 1, words
        assert "Traceback" not in words
    return [words for _, words in ends]


def test_other_settings(line, tmp_path: Path) -> None:
    commands = [line(), line("--config.fit.epochs=7")]
    for words in refused(commands, cluster(2), tmp_path / "run"):
        assert "the workers differ:\n  config.fit.epochs is 7 on worker 1 (127.0.0.1:" in words


def test_other_versions(line, tmp_path: Path) -> None:
    commands = [line(), line(start=("-c", OLDER))]
    for words in refused(commands, cluster(2), tmp_path / "run"):
        assert '  versions.keras is "3.14.0" on worker 1 (127.0.0.1:' in words


def test_other_data_in_files_of_one_name(line, tmp_path: Path) -> None:
    command = [*line(), "--config.data.path=75.csv"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "75.csv").write_text((tmp_path / "75.csv").read_text().replace("good", "fine", 1))
    commands = [["env", f"--chdir={place}", *command] for place in (tmp_path, other)]
    for words in refused(commands, cluster(2), tmp_path / "run"):
        assert "the workers differ:\n  data is " in words


def test_a_port_in_use(line, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        spec = {"worker": [f"127.0.0.1:{port}", "127.0.0.1:1"]}
        task = json.dumps({"cluster": spec, "task": {"type": "worker", "index": 0}})
        (words,) = refused([line()], [environment(TF_CONFIG=task)], tmp_path / "run")
    assert f"port {port} of worker 0 (127.0.0.1:{port}) cannot be" in words


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "TF_CONFIG is no JSON"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "this is worker 1, but its cluster has 1 of",
        ),
        (
            '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
            'names the address "a:1" 2 times',
        ),
    ],
)
def test_a_wrong_tf_config(value: str, message: str, line, tmp_path: Path) -> None:
    (words,) = refused([line()], [environment(TF_CONFIG=value)], tmp_path / "run")
    assert message in words


def test_other_weights_in_presets_of_one_name(line, tmp_path: Path) -> None:
    """They are loaded on each host, and no strategy hands them out."""
    for name, seed in (("here", 1), ("there", 7)):
        (tmp_path / name).mkdir()
        tiny_task(seed=seed).save(tmp_path / name / "tiny.keras")
    command = line("--config.model.preset=tiny.keras", "--config.phases=probe")
    commands = [["env", f"--chdir={tmp_path / place}", *command] for place in ("here", "there")]
    for words in refused(commands, cluster(2), tmp_path / "run"):
        assert "the workers differ:\n  weights is " in words
