"""What a finished run holds outlives every mistake and a disk that gets full."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.disks import fill, mounted
from tests.mistakes import refusal, said, snapshot, table
from tests.runs import Run
from tf_finetune import assemble, main, train
from tf_finetune.exports import saved_model
from tf_finetune.fit.checkpoints import KeepBest
from tf_finetune.inputs import texts
from tf_finetune.results import predict


@pytest.fixture
def run(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, `run` in the working folder, with files to try it on."""
    shutil.copytree(finished.result.workdir, tmp_path / "run")
    (tmp_path / "good.csv").write_bytes(table(60))
    (tmp_path / "other.csv").write_text("id,review\n1,fine\n")
    (tmp_path / "latin.csv").write_bytes(b"text,label\ncaf\xe9,pos\n")
    (tmp_path / "recipe.py").write_text(
        "from tf_finetune import FineTuneConfig\n"
        "def get_config():\n"
        "    config = FineTuneConfig()\n"
        "    config.data.path = 'good.csv'\n"
        "    return config\n"
    )
    (tmp_path / "same.py").write_text(
        "from tf_finetune import FineTuneConfig\n"
        "def get_config():\n"
        "    return FineTuneConfig.from_json(open('run/config.json').read())\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--mode=predict", "--input=other.csv"],
            ['"other.csv" has no column "text"', 'It has: "id", "review"', "data.text=NAME"],
        ),
        (
            ["--mode=predict", "--input=latin.csv"],
            [
                "1 x undecodable bytes: latin.csv:2",
                "set --config.data.encoding",
                "--config.data.bad_rows=drop",
            ],
        ),
        (
            ["--mode=predict", "--input=good.csv", "--output=other.csv"],
            ['--output "other.csv" exists; delete it or choose another name'],
        ),
        (
            ["--mode=predict", "--input=good.csv", "--output=out.txt"],
            ['--output "out.txt" must end in .jsonl or .csv'],
        ),
        (
            ["--mode=predict", "--config=recipe.py", "fine"],
            ["model.preset: ", "-> 'minilm'", "Leave them out; the run is used with its own"],
        ),
        (
            ["--mode=evaluate", "--input=other.csv", "--config.data.text=review"],
            ['"other.csv" has no column "label"', "--config.data.label=NAME"],
        ),
        (
            ["--mode=export", "--output=good.csv"],
            ['The export folder "good.csv" is a file; move it away'],
        ),
        (
            ["--config=recipe.py"],
            ['"run" holds a run with another configuration', "Choose another --workdir"],
        ),
    ],
)
def test_mistakes(
    arguments: list[str], parts: list[str], run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    message = refusal(["--workdir=run", *arguments], run.parent, capfd)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("mode", [["evaluate"], ["export"], ["predict", "fine"]])
def test_an_unfinished_run(mode: list[str], run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.json").unlink()
    message = refusal(["--workdir=run", f"--mode={mode[0]}", *mode[1:]], run.parent, capfd)
    assert message == '"run" holds a run that has not finished; give its train command again.'


@pytest.mark.parametrize("mode", [["--config=same.py"], ["--mode=export"]])
def test_the_export_folder_of_others(
    mode: list[str], run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run / "export/saved_model/1/assets.extra/tf_finetune.json").unlink()
    if "export" not in mode[0]:
        (run / "metrics.json").unlink()  # it was stopped, and goes on
    message = refusal(["--workdir=run", *mode], run.parent, capfd)
    assert 'The export folder "run/export/saved_model" exists and holds "1"' in message
    assert "Move it away, or choose another folder" in message


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that can be filled."""
    with mounted(tmp_path / "disk", "64m") as folder:
        yield folder


def fill_before(disk: Path, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills the disk in the middle of a run: when a function of it is called."""
    function = getattr(owner, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        fill(disk)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize(
    ("owner", "name", "finished_files"),
    [
        (assemble, "prepare", []),
        (texts, "tokenize", []),
        (train, "run_phase", []),
        (KeepBest, "on_epoch_end", []),
        (train, "written_whole", []),
        (saved_model, "_write", ["model.keras"]),
        (train.markdown, "render", ["model.keras"]),
    ],
)
def test_the_disk_gets_full_in_training(
    owner: Any,
    name: str,
    finished_files: list[str],
    run: Path,
    disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    fill_before(disk, owner, name, monkeypatch)
    given = ["--config=same.py", "--workdir=disk/run", "--config.phases=probe"]
    given += ["--config.fit.probe_epochs=1", f"--config.results.export={name != 'render'}"]
    assert main.run(["tf-finetune", *given]) == 2
    message = said(capfd)
    assert '"disk/run' in message
    assert "full" in message or "No space left" in message
    assert "ake room there, or choose another folder" in message
    left = [str(path.relative_to("disk/run")) for path in Path("disk/run").rglob("*")]
    results = ["model.keras", "report.md", "metrics.json", "export/saved_model/1"]
    assert [result for result in results if result in left] == finished_files
    assert not [path for path in left if "writing" in path or "unfinished" in path]


def test_a_disk_too_small_for_the_run_is_found_before_training(
    run: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "bytes_of", lambda model: 30 * 10**6)
    message = refusal(["--config=same.py", "--workdir=disk/run"], disk, capfd)
    assert '--workdir "disk/run": its disk has 67 MB free' in message
    assert "take 90 MB or more. Make room there, or choose another folder" in message


@pytest.mark.parametrize("when", ["before", "while it writes"])
def test_the_disk_gets_full_in_a_second_export(
    when: str, run: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    shutil.copytree("run", "disk/run")
    if when == "before":
        fill(disk)
    else:
        fill_before(disk, saved_model, "_write", monkeypatch)
    before = snapshot(disk / "run")
    assert main.run(["tf-finetune", "--workdir=disk/run", "--mode=export"]) == 2
    message = said(capfd)
    assert 'The disk of the export folder "disk/run/export/saved_model" is full' in message
    assert "Make room there" in message
    assert snapshot(disk / "run") == before


def test_the_disk_gets_full_in_prediction(
    run: Path, disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fill_before(disk, predict, "_write", monkeypatch)
    given = ["--mode=predict", "--input=good.csv", "--output=disk/out.csv"]
    assert main.run(["tf-finetune", "--workdir=run", *given]) == 2
    assert 'the disk is full at "disk/out.csv"' in said(capfd)
    assert os.listdir(disk) == ["filler"]
