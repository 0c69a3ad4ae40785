"""Whether the selftest tells runs that ended the same from those that did not."""

from __future__ import annotations

import json
import pkgutil
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

import tf_finetune
from tests.runs import Run
from tf_finetune.checkpoints.files import CheckpointFiles
from tf_finetune.errors import UserError
from tf_finetune.proof import selftest as module
from tf_finetune.proof.comparing import differences
from tf_finetune.proof.moments import STAGES, Moment


def test_it_is_offered_as_a_function() -> None:
    assert tf_finetune.selftest is module.selftest
    assert tf_finetune.selftest is module.selftest  # also once its module is there


def change_weight(run: Path) -> None:
    """The last bit of one weight of the model."""
    shutil.unpack_archive(run / "model.keras", run / "parts", "zip")
    with h5py.File(run / "parts" / "model.weights.h5", "r+") as file:
        values = next(v for v in _all(file) if v.dtype == "float32" and v.ndim == 2)
        raw = values[()]
        raw.view("uint32")[0, 0] ^= 1
        values[...] = raw
    archive = shutil.make_archive(str(run / "model"), "zip", run / "parts")
    Path(archive).replace(run / "model.keras")


def _all(group: h5py.Group) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    group.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
    return found


def change_optimizer(run: Path) -> None:
    files = CheckpointFiles(run / "checkpoints", keep=1)
    found = files.newest()
    assert found
    name = next(name for name in found.arrays if name.startswith("velocity/"))
    found.arrays[name].reshape(-1).view("uint32")[0] ^= 1
    files.write(found.arrays, found.facts)


def change_history(run: Path) -> None:
    rows = (run / "metrics.jsonl").read_text().splitlines()
    last = json.loads(rows[-1])
    rows[-1] = json.dumps(last | {"loss": last["loss"] + 1e-9})
    (run / "metrics.jsonl").write_text("\n".join(rows))


def change_card(run: Path) -> None:
    card = json.loads((run / "metrics.json").read_text())
    card["test"]["accuracy"] += 1e-9
    (run / "metrics.json").write_text(json.dumps(card))


def change_times(run: Path) -> None:
    card = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(card | {"train_seconds": 0.5, "resumed": 9}))


CHANGES = {
    change_weight: "model.keras: ",
    change_optimizer: "checkpoint: velocity/",
    change_history: "history",
    change_card: "card",
    change_times: "",
}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture
def ended(finished: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Moment | None]]:
    """Puts finished runs in the place of those that would be trained."""

    def use(change: Callable[[Path], None]) -> list[Moment | None]:
        seen: list[Moment | None] = []

        def start(run: Path, moment: Moment | None, say: Callable[[str], None]) -> None:
            seen.append(moment)
            if not run.exists():
                shutil.copytree(finished.result.workdir, run)
                if run.name == "killed":
                    change(run)

        monkeypatch.setattr(module, "_start", start)
        return seen

    return use


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_is_said_and_kept(
    change: Callable[[Path], None], ended: Callable[..., list[Moment | None]], scratch: Path
) -> None:
    said: list[str] = []
    moments = ended(change)
    assert module.selftest(say=said.append) == (not CHANGES[change])
    assert moments[0] is moments[-1] is None
    kills = [moment for moment in moments if moment]
    assert [kill.stage for kill in kills] == list(dict.fromkeys(kill.stage for kill in kills))
    assert {kill.stage for kill in kills} == STAGES.keys()
    if not CHANGES[change]:
        assert said[-1].startswith("identical: the run was killed 7 times and went on from a check")
        assert list(scratch.iterdir()) == []
        return
    (folder,) = scratch.iterdir()
    *_, title, name, place = said
    assert title.startswith("NOT identical")
    assert name.startswith(f"  {CHANGES[change]}")
    assert place == f"both runs are in {folder}"
    assert len(differences(folder / "whole", folder / "killed")) == 1


def test_a_given_folder_stays(ended: Callable[..., object], tmp_path: Path, scratch: Path) -> None:
    ended(change_times)
    folder = tmp_path / "new" / "folder"
    assert module.selftest(folder, say=lambda line: None)
    assert sorted(path.name for path in folder.iterdir()) == ["killed", "whole"]
    with pytest.raises(UserError, match=r"is not empty \(it holds killed\); choose a new or an"):
        module.selftest(folder)
    with pytest.raises(UserError, match=r"cannot be used: .* Choose another folder"):
        module.selftest(folder / "whole" / "config.json")


def test_a_start_that_fails_is_told(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(module.sys, "executable", shutil.which("false"))
    assert not module.selftest(say=said.append)
    (folder,) = scratch.iterdir()
    assert said[1] == (
        "selftest FAILED: a run should have come to its end, and ended with status 1; see "
        f"{folder / 'whole.txt'}"
    )


def test_one_that_is_broken_off_leaves_nothing(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(run: Path, *_: object) -> None:
        run.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_start", start)
    with pytest.raises(KeyboardInterrupt):
        module.selftest(say=lambda line: None)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_function_of_a_run(stage: str) -> None:
    place, name = STAGES[stage]
    assert callable(getattr(pkgutil.resolve_name(place), name))


@pytest.mark.slow
def test_for_real(tmp_path: Path, scratch: Path) -> None:
    said: list[str] = []
    assert tf_finetune.selftest(tmp_path / "kept", say=said.append), said
    *_, last = said
    assert "killed 7 times and went on from a checkpoint 6 times" in last
    change_weight(tmp_path / "kept" / "killed")
    (name,) = differences(tmp_path / "kept" / "whole", tmp_path / "kept" / "killed")
    assert name.startswith("model.keras: ")
    assert list(scratch.iterdir()) == []
