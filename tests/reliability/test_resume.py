"""A run that is broken off, whatever it was doing, ends as if it had not been.

Here an error that nothing catches stands for the kill, so that a moment can be chosen.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import runs
from tests.reliability.comparing import differences
from tests.runs import config_for
from tf_finetune import resume, train
from tf_finetune.checkpoints.files import CheckpointFiles
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.errors import UserError
from tf_finetune.fit.resuming import SaveState
from tf_finetune.fit.spike_guard import SpikeGuard
from tf_finetune.stopping import Stop, Stopped
from tf_finetune.train import fine_tune


class Killed(BaseException):
    """What no part of a run catches."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """A call in which a run is killed: the n-th of a function of an owner."""

    owner: Any
    name: str
    call: int = 1
    after: bool = False


BATCH = (SaveState, "on_train_batch_end")
EPOCH = (SaveState, "on_epoch_end")


@pytest.fixture
def run(tmp_path: Path, preset: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs `config` in a folder, perhaps until a moment; returns what was said."""

    def go(folder: str, config: FineTuneConfig, moment: Moment | None = None) -> list[str]:
        said: list[str] = []
        with monkeypatch.context() as patch:
            if moment:
                patch.setattr(moment.owner, moment.name, _killing(moment))
            given = (config, tmp_path / folder, runs.classes())
            if not moment:
                fine_tune(*given, say=said.append)
                return said
            with pytest.raises(Killed):
                fine_tune(*given, say=said.append)
        return said

    return go


def _killing(moment: Moment) -> Callable[..., Any]:
    function, calls = getattr(moment.owner, moment.name), []

    def called(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        is_it = len(calls) == moment.call
        if is_it and not moment.after:
            raise Killed
        found = function(*args, **kwargs)
        if is_it:
            raise Killed
        return found

    return called


def config_of(preset: Path, **changes: Any) -> FineTuneConfig:
    given = {"epochs": 3, "probe_epochs": 2, "global_batch": 8, "save_every": 1}
    return config_for(preset, **(given | {"learning_rate": 1e-2} | changes))


def went_on(said: list[str]) -> str:
    (line,) = [line for line in said if line.startswith("goes on from")]
    return line.removeprefix("goes on from ")


# 46 training rows make 6 updates an epoch; the head's phase makes the first 12.
CASES: dict[str, tuple[dict[str, Any], list[Moment]]] = {
    "head on features, then all": ({}, [Moment(*BATCH, 4), Moment(*BATCH, 9, after=True)]),
    "head in the network": ({"cache": False, "phases": "probe"}, [Moment(*BATCH, 9)]),
    "gradual": ({"phases": "gradual", "layer_decay": 0.8}, [Moment(*BATCH, 15)]),
    "lora": ({"phases": "lora"}, [Moment(*BATCH, 16)]),
    "beside a baseline": ({"phases": "full", "l2_sp": 0.1}, [Moment(*BATCH, 3)]),
    "averages": ({"ema": 0.9, "phases": "full"}, [Moment(*BATCH, 16), Moment(*EPOCH, 3)]),
    "mixup and r-drop": (
        {"mixup": 0.4, "r_drop": 0.5, "micro_batch": 3, "phases": "full"},
        [Moment(*BATCH, 21)],
    ),
    "plateau and patience": (
        {"schedule": "plateau", "patience": 2, "epochs": 6, "learning_rate": 0.3, "phases": "full"},
        [Moment(*EPOCH, 5, after=True)],
    ),
    "several updates a call": ({"steps_per_execution": 4}, [Moment(*BATCH, 6)]),
    "noise, balanced": (
        {
            "token_deletion": 0.2,
            "token_swap": 0.2,
            "sampling": "balanced",
            "gradient_checkpointing": True,
            "phases": "full",
        },
        [Moment(*BATCH, 17)],
    ),
    "float16": ({"precision": "float16", "phases": "full", "epochs": 2}, [Moment(*BATCH, 16)]),
    "several heads": ({"probe_seeds": 2, "epochs": 1}, [Moment(train, "run_phase", 2)]),
}


# The others take as long, and share most of their code with these.
FAST = ("head on features, then all", "averages", "several updates a call")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c in FAST else pytest.mark.slow) for c in CASES]
)
def test_the_end_is_the_same_bit_for_bit(
    case: str, preset: Path, tmp_path: Path, run: Callable[..., list[str]]
) -> None:
    changes, moments = CASES[case]
    config = config_of(preset, **changes)
    run("whole", config)
    for moment in moments:
        run("killed", config, moment)
    assert went_on(run("killed", config))
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    card = json.loads((tmp_path / "killed" / "metrics.json").read_text())
    assert card["resumed"] == len(moments)


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_interpolation_and_retained_rows(
    preset: Path, tmp_path: Path, run: Callable[..., list[str]], share: float
) -> None:
    rows = "".join(f"bad film {i},neg\ngood plot {i},pos\n" for i in range(10))
    (tmp_path / "retained.csv").write_text(f"text,label\n{rows}")
    config = config_of(preset, interpolate=share, retained=str(tmp_path / "retained.csv"))
    run("whole", config)
    run("killed", config, Moment(*BATCH, 16))
    assert went_on(run("killed", config, Moment(train, "interpolate_run", after=True))) != ""
    assert went_on(run("killed", config)) == "the end of phase tune"
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


@pytest.fixture(scope="module")
def short(preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("short") / "run"
    config = config_of(preset, epochs=1, save_every=0)
    fine_tune(config, folder, runs.classes(), say=lambda line: None)
    return folder


@pytest.mark.parametrize(
    ("moment", "place"),
    [
        (Moment(train, "run_phase", 2), "the end of phase probe"),
        (Moment(train, "judge"), "the end of phase tune"),
        (Moment(train.every_format, "export_each"), "the end of phase tune"),
        (Moment(train.markdown, "render"), "the end of phase tune"),
        (Moment(train.folder, "write_atomically", 4), "the end of phase tune"),
    ],
    ids=["between phases", "evaluation", "export", "report", "card"],
)
def test_between_and_after_the_phases(
    moment: Moment,
    place: str,
    preset: Path,
    tmp_path: Path,
    run: Callable[..., list[str]],
    short: Path,
) -> None:
    config = config_of(preset, epochs=1, save_every=1000, export=moment.name == "export")
    run("killed", config, moment)
    said = run("killed", config)
    phases = [line for line in said if line.startswith("phase tune: trainable")]
    assert went_on(said) == place
    assert len(phases) == (place == "the end of phase probe")
    assert differences(short, tmp_path / "killed") == []


class Spiking:
    """Makes the loss that the guard sees too high in chosen batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
        seen = SpikeGuard._loss

        def loss(guard: SpikeGuard) -> float:
            found = seen(guard)
            steps_done = int(guard.model.optimizer.iterations.numpy())
            return float("inf") if steps_done in steps else found

        monkeypatch.setattr(SpikeGuard, "_loss", loss)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_guard_that_went_back_before_and_goes_back_after(
    every: int,
    preset: Path,
    tmp_path: Path,
    run: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Spiking(monkeypatch, 9, 17)
    changes = {"phases": "full", "save_every": every, "ema": 0.9, "probe_baseline": False}
    config = config_of(preset, **changes)
    run("whole", config)
    card = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert card["phases"][0]["skipped"] == [[2, 1, 3], [3, 1, 5]]
    run("killed", config, Moment(*BATCH, 15))
    run("killed", config)
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


def asking(stop: Stop, name: str, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a run asked to stop just before the n-th call of a method of its `SaveState`."""
    method, calls = getattr(SaveState, name), []

    def called(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            stop.ask()
        method(*args, **kwargs)

    monkeypatch.setattr(SaveState, name, called)


def test_asked_to_stop_it_saves_the_batch_and_what_the_guard_would_go_back_to(
    preset: Path,
    tmp_path: Path,
    run: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Spiking(monkeypatch, 17)
    # Nothing is saved but when asked, however slow the machine is.
    config = config_of(preset, phases="full", save_every=1000, probe_baseline=False)
    run("whole", config)
    for name, call in (("on_train_batch_end", 15), ("on_test_batch_end", 1)):
        stop = Stop()
        with monkeypatch.context() as patch:
            asking(stop, name, call, patch)
            with pytest.raises(Stopped):
                fine_tune(config, tmp_path / "killed", runs.classes(), stop=stop, say=print)
        assert stop.place == "phase tune, epoch 3, update 3"
    assert went_on(run("killed", config)) == "phase tune, epoch 3, update 3"
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    card = json.loads((tmp_path / "killed" / "metrics.json").read_text())
    assert card["phases"][0]["skipped"] == [[3, 1, 5]]
    assert card["resumed"] == 2


@pytest.mark.slow
def test_the_saves_of_a_run_do_not_change_it(
    preset: Path, tmp_path: Path, run: Callable[..., list[str]]
) -> None:
    often, never = config_of(preset), config_of(preset, save_every=0)
    run("often", often)
    run("never", never)
    found = differences(tmp_path / "often", tmp_path / "never")
    assert found == []


@pytest.fixture
def begun(
    preset: Path, tmp_path: Path, run: Callable[..., list[str]]
) -> tuple[FineTuneConfig, Path]:
    """A run killed in its second phase, and its folder."""
    config = config_of(preset, epochs=1)
    run("killed", config, Moment(*BATCH, 16))
    return config, tmp_path / "killed"


def test_a_damaged_checkpoint_makes_no_difference(
    begun: tuple[FineTuneConfig, Path], tmp_path: Path, run: Callable[..., list[str]]
) -> None:
    config, folder = begun
    numbered = sorted(path for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    assert len(numbered) == 2
    (numbered[-1] / "arrays.safetensors").write_bytes(b"torn")
    said = run("killed", config)
    assert [line for line in said if f"{numbered[-1]} is damaged and is not used" in line]
    assert went_on(said) == "phase tune, epoch 1, update 2"
    run("whole", config)
    assert differences(tmp_path / "whole", folder) == []


def test_without_a_whole_one_the_run_begins_anew(
    begun: tuple[FineTuneConfig, Path], tmp_path: Path, run: Callable[..., list[str]]
) -> None:
    config, folder = begun
    for path in (folder / "checkpoints").rglob("state.json"):
        path.unlink()
    said = run("killed", config)
    assert [line for line in said if line.startswith("goes on")] == []
    assert "no checkpoint is whole; the run begins anew" in said
    run("whole", config)
    assert differences(tmp_path / "whole", folder) == []


def test_what_must_be_as_it_was(
    begun: tuple[FineTuneConfig, Path], preset: Path, tmp_path: Path
) -> None:
    config, folder = begun
    with pytest.raises(UserError, match=r"The data have changed since the run in .* began"):
        fine_tune(config, folder, runs.classes(60), say=lambda line: None)
    copy = shutil.copytree(folder, tmp_path / "moved")
    kept = preset.read_bytes()
    try:
        preset.unlink()
        runs.save_preset(preset, dropout=0.1, seed=7)
        with pytest.raises(UserError, match=r"config.model.preset gives other weights than"):
            fine_tune(config, copy, runs.classes(), say=lambda line: None)
    finally:
        preset.write_bytes(kept)


def test_other_versions_are_told(
    begun: tuple[FineTuneConfig, Path],
    run: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = resume.versions()
    monkeypatch.setattr(resume, "versions", lambda: now | {"keras": "9.9"})
    said = run("killed", begun[0])
    expected = f"versions have changed since the run began (keras {now['keras']} -> 9.9)"
    assert [line for line in said if line.startswith(expected)]


def test_precision_and_micro_batch_are_those_of_the_beginning(
    preset: Path, tmp_path: Path, run: Callable[..., list[str]]
) -> None:
    config, folder = config_of(preset, epochs=1), tmp_path / "killed"
    run("killed", config, Moment(train, "run_phase", 2))
    found = CheckpointFiles(folder / "checkpoints").newest()
    assert found
    found.facts["made"] |= {"precision": "bfloat16", "micro_batch": 3}
    CheckpointFiles(folder / "checkpoints").write(found.arrays, found.facts)
    run("killed", config)
    card = json.loads((folder / "metrics.json").read_text())
    assert (card["precision"], card["micro_batch"]) == ("bfloat16", 3)


def test_a_disk_that_is_full_for_checkpoints_stops_nothing(
    preset: Path,
    tmp_path: Path,
    run: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(preset, epochs=1)
    run("whole", config)
    calls: list[int] = []

    def room(files: CheckpointFiles, size: int) -> None:
        calls.append(size)
        if 5 < len(calls) < 12:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointFiles, "_check_room", room)
    said = run("full", config)
    assert [line for line in said if "no checkpoint could be written" in line] == [
        "no checkpoint could be written ([Errno 28] No space left on device); training goes on, "
        "and the next one is tried again"
    ]
    assert len(calls) > 12
    assert differences(tmp_path / "whole", tmp_path / "full") == []


def test_two_at_once_in_one_folder(
    preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, refused = config_of(preset, phases="probe", probe_epochs=1), []
    end = SaveState.on_train_batch_end

    def during(state: SaveState, batch: int, logs: Any = None) -> None:
        if not refused:
            with pytest.raises(UserError, match=r"is in use: process \d+ on .* works in it") as e:
                fine_tune(config, tmp_path / "run", runs.classes())
            refused.append(e)
        end(state, batch, logs)

    monkeypatch.setattr(SaveState, "on_train_batch_end", during)
    result = fine_tune(config, tmp_path / "run", runs.classes(), say=lambda line: None)
    assert refused
    assert result.metrics["resumed"] == 0
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.slow
def test_listed_phases_carry_the_optimiser_over(
    preset: Path, tmp_path: Path, run: Callable[..., list[str]]
) -> None:
    phases = (
        Phase(train="last:1", learning_rate=1e-2, epochs=1),
        Phase(train="head", learning_rate=1e-2, epochs=2),
        Phase(name="rest", train="all", learning_rate=1e-3, epochs=1, schedule="cosine"),
    )
    config = config_of(preset, phases=phases, probe_baseline=False)
    run("whole", config)
    for call in (9, 12):
        run("killed", config, Moment(*BATCH, call))
    run("killed", config)
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    found = CheckpointFiles(tmp_path / "killed" / "checkpoints").newest()
    assert found
    assert len(set(found.facts["ages"].values())) == 3  # updates differ by block
    assert all(np.isfinite(array).all() for array in found.arrays.values())
