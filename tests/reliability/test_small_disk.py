"""A disk that is really full while a checkpoint is written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import runs
from tests.disks import fill, mounted
from tests.reliability.comparing import differences
from tests.reliability.stopping import stopping_at
from tests.runs import config_for
from tf_finetune.checkpoints.files import CheckpointFiles
from tf_finetune.checkpoints.saver import Saver
from tf_finetune.stopping import Stopped
from tf_finetune.train import fine_tune

LARGE = {"arrays": ({"n": np.ones(500_000, "float32")}, {}), "facts": ({}, {"n": "x" * 2_000_000})}


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others fill the disk after it was looked at."""
    monkeypatch.setattr(CheckpointFiles, "_check_room", lambda files, size: None)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "1m") as folder:
        yield folder


@pytest.mark.usefixtures("unforeseen")
@pytest.mark.parametrize("which", LARGE)
def test_the_checkpoint_before_is_whole_and_it_is_said(which: str, disk: Path) -> None:
    said: list[str] = []
    files = CheckpointFiles(disk / "checkpoints")
    saver = Saver(files, every=1, say=said.append)
    saver.save(lambda: ({"n": np.ones(9)}, {"number": 1}))
    saver.wait()
    for _ in range(2):
        saver.save(lambda: LARGE[which])
        saver.wait()
    (line,) = said
    assert line.startswith(f"no checkpoint could be written ([Errno {errno.ENOSPC}] No space left")
    assert line.endswith("training goes on, and the next one is tried again")
    assert [path.name for path in (disk / "checkpoints").iterdir()] == ["000001"]
    found = CheckpointFiles(disk / "checkpoints").newest()
    assert found
    assert found.facts == {"number": 1}
    saver.save(lambda: ({"n": np.ones(9)}, {"number": 2}))
    saver.close()
    found = CheckpointFiles(disk / "checkpoints").newest()
    assert found
    assert found.facts == {"number": 2}
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("unforeseen")
def test_a_run_goes_on_from_the_checkpoint_before(
    preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, said, calls = CheckpointFiles.write, [], []

    def full(files: CheckpointFiles, *args: Any) -> Path:
        calls.append(1)
        if not 3 < len(calls) <= 5:
            return write(files, *args)
        filler = fill(tmp_path / "disk")
        try:
            return write(files, *args)
        finally:
            filler.unlink()

    config = config_for(preset, phases="probe", save_every=1, global_batch=8)
    with mounted(tmp_path / "disk", "64m") as disk:
        with monkeypatch.context() as patch:
            patch.setattr(CheckpointFiles, "write", full)
            stopping_at(5, patch)
            with pytest.raises(Stopped):
                fine_tune(config, disk / "run", runs.classes(), say=said.append)
        assert len([line for line in said if "No space left on device" in line]) == 1
        fine_tune(config, disk / "run", runs.classes(), say=said.append)
        assert "goes on from phase probe, epoch 1, update 3" in said
        fine_tune(config, tmp_path / "whole", runs.classes(), say=said.append)
        assert differences(tmp_path / "whole", disk / "run") == []
