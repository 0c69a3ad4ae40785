"""Saving and going on, hundreds of times, takes no more at the end than at the beginning."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests import runs
from tests.reliability.stopping import stopping_at
from tests.runs import config_for
from tf_finetune.checkpoints.files import CheckpointFiles
from tf_finetune.checkpoints.saver import Saver
from tf_finetune.fit.resuming import SaveState
from tf_finetune.stopping import Stop, Stopped
from tf_finetune.train import fine_tune

SIZE = 1_000_000


def held() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.slow
def test_two_hundred_saves_each_by_a_run_that_goes_on(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int, int]] = []
    for number in range(200):
        files = CheckpointFiles(tmp_path)
        found = files.newest()
        before = found.arrays["n"] if found else np.zeros(SIZE, "float32")
        assert before[0] == number
        saver = Saver(files, every=1)
        saver.save(lambda a=before: ({"n": a + 1}, {"rows": []}), 1)
        saver.close()
        seen.append((held(), handles(), threading.active_count(), on_disk(tmp_path)))
    early, late = seen[20], seen[-1]
    # A few arrays of 4 MB may wait to be given back; one kept by each save would be 720 MB.
    assert late[0] - early[0] < 4 * 4 * SIZE
    assert late[1:3] == early[1:3]
    assert late[3] < 2.1 * 4 * SIZE


@pytest.mark.slow
def test_two_hundred_saves_of_one_run(
    preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int]] = []
    end = SaveState.on_train_batch_end

    def noted(state: SaveState, batch: int, logs: Any = None) -> None:
        end(state, batch, logs)
        state._saving.saver.wait()
        seen.append((handles(), on_disk(tmp_path / "run" / "checkpoints"), held()))

    monkeypatch.setattr(SaveState, "on_train_batch_end", noted)
    config = config_for(preset, phases="probe", probe_epochs=80, save_every=1, global_batch=16)
    fine_tune(config, tmp_path / "run", runs.classes(), say=lambda line: None)
    assert len(seen) >= 200
    early, late = seen[40], seen[-1]
    assert late[0] == early[0]
    assert late[1] < early[1] + 40_000  # the history of 80 epochs is in them
    assert late[2] - early[2] < 20_000_000


@pytest.mark.slow
def test_two_hundred_starts_of_one_run(
    preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each goes on, makes an update or two, saves, and is stopped."""
    stopping_at(2, monkeypatch)
    config = config_for(preset, phases="probe", probe_epochs=110, save_every=1, global_batch=16)
    seen: list[tuple[int, int, int, int]] = []
    places: set[str] = set()
    for _ in range(200):
        stop = Stop()
        with pytest.raises(Stopped):
            fine_tune(config, tmp_path / "run", runs.classes(), stop=stop, say=lambda line: None)
        places.add(stop.place)
        keras.backend.clear_session()
        gc.collect()
        seen.append((held(), handles(), threading.active_count(), on_disk(tmp_path / "run")))
    assert len(places) == 200
    early, late = seen[100], seen[-1]
    assert late[1:3] == early[1:3]
    # TensorFlow's registry of gradients keeps a step's graph until the process ends, for a custom
    # gradient in it (`ops.RegisterGradient` in custom_gradient.py): 1.2 MB a start here.
    assert late[0] - early[0] < 200_000_000
    assert late[3] - early[3] < 200_000  # figures of 50 epochs, and a line of each start
