"""Runs begun by another version of the format, or under a clock that goes backwards."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import pytest

from tests import runs
from tests.mistakes import snapshot
from tests.reliability.comparing import differences
from tests.reliability.stopping import stopping_at
from tests.runs import config_for
from tf_finetune.checkpoints.files import FORMAT, STATE
from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import UserError
from tf_finetune.stopping import Stopped
from tf_finetune.train import fine_tune

pytestmark = pytest.mark.slow


@pytest.fixture
def config(preset: Path) -> FineTuneConfig:
    return config_for(preset, phases="probe", save_every=1, global_batch=8)


def stopped(config: FineTuneConfig, run: Path, update: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stopping_at(update, patch)
        with pytest.raises(Stopped):
            fine_tune(config, run, runs.classes(), say=lambda line: None)


@pytest.mark.parametrize("version", [FORMAT - 1, FORMAT + 1])
def test_a_run_in_another_format_is_refused_and_left_as_it_is(
    version: int, config: FineTuneConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stopped(config, run, 4)
    for file in (run / "checkpoints").rglob(STATE):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"format": version}))
    before = snapshot(run)
    with pytest.raises(UserError, match=f"has the format {version}, and this version reads 1") as e:
        fine_tune(config, run, runs.classes(), say=lambda line: None)
    assert "with the version that began the run, or choose another workdir" in str(e.value)
    assert snapshot(run) == before


def test_a_clock_that_goes_backwards(
    config: FineTuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine_tune(config, tmp_path / "whole", runs.classes(), say=lambda line: None)
    times = itertools.count(2e9, -3600)
    monkeypatch.setattr("time.time", lambda: next(times))
    run, said = tmp_path / "run", []
    for update in (3, 2):
        stopped(config, run, update)
        for file in sorted(run.rglob("*")):  # the later written, the older it seems
            os.utime(file, (next(times), next(times)))
    fine_tune(config, run, runs.classes(), say=said.append)
    assert "goes on from phase probe, epoch 1, update 5" in said
    assert differences(tmp_path / "whole", run) == []
