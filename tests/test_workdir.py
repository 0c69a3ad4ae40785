import os

import pytest

from tests.runs import files_of
from tf_finetune import workdir as folder
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.errors import UserError


def config(epochs=2):
    made = FineTuneConfig()
    made.fit.epochs = epochs
    return made


@pytest.fixture
def begun(tmp_path):
    folder.prepare_workdir(tmp_path / "run", config())
    folder.begin(tmp_path / "run", config(), "# Data report\n")
    return tmp_path / "run"


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    assert folder.prepare_workdir(tmp_path / "a" / "b", config()) is False
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("left", ["cache", ".lock", ".write-test", "writing-config.json"])
def test_what_a_failed_preparation_left_is_no_hindrance(tmp_path, left):
    (tmp_path / left).mkdir() if left == "cache" else (tmp_path / left).touch()
    assert folder.prepare_workdir(tmp_path, config()) is False


@pytest.mark.parametrize("name", ["letter.txt", ".hidden", "model.keras"])
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("dear")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=f"holds {name}"):
        folder.prepare_workdir(tmp_path, config())
    assert files_of(tmp_path) == before


def test_the_same_run_may_go_on_until_it_is_finished(begun):
    assert folder.prepare_workdir(begun, config()) is False
    (begun / folder.CARD).write_text("{}")
    assert folder.prepare_workdir(begun, config()) is True


@pytest.mark.parametrize("is_finished", [False, True])
def test_another_configuration_is_refused_with_all_differences(begun, is_finished):
    if is_finished:
        (begun / folder.CARD).write_text("{}")
    other = config(epochs=3)
    other.phases = (Phase(train="last:1"),)
    before = files_of(begun)
    with pytest.raises(UserError, match=r"fit\.epochs: 2 -> 3") as refused:
        folder.prepare_workdir(begun, other)
    assert "phases: 'probe_then_tune' -> [{" in str(refused.value)
    assert files_of(begun) == before


def test_listed_phases_are_the_same_again(tmp_path):
    listed = config()
    listed.phases = [Phase(train="last:1"), Phase(epochs=3)]
    folder.prepare_workdir(tmp_path, listed)
    folder.begin(tmp_path, listed, "")
    assert folder.prepare_workdir(tmp_path, listed) is False


def test_beginning_again_clears_what_an_unfinished_run_left(begun):
    for left in ("checkpoints/1-probe/best.weights.h5", "logs/1-probe/events"):
        (begun / left).parent.mkdir(parents=True)
        (begun / left).write_text("old")
    (begun / folder.MODEL).write_text("old")
    (begun / folder.HISTORY).write_text('{"epoch": 1}\n')
    folder.begin(begun, config(), "# Old\n", "kind,place,text\n")
    assert (begun / folder.FINDINGS).read_text() == "kind,place,text\n"
    folder.begin(begun, config(), "# New\n")
    assert {path.name for path in begun.iterdir()} == {
        *(folder.CONFIG, folder.HISTORY, "data_report.md")
    }
    assert (begun / folder.HISTORY).read_text() == ""
    assert (begun / "data_report.md").read_text() == "# New\n"


def test_a_damaged_configuration_is_named(begun):
    (begun / folder.CONFIG).write_text('{"fit": ')
    with pytest.raises(UserError, match=r'config\.json" cannot be read'):
        folder.prepare_workdir(begun, config())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        folder.prepare_workdir(tmp_path / "run", config())


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("dear")
    with pytest.raises(UserError, match="cannot be written"):
        folder.prepare_workdir(tmp_path / "run", config())
    assert (tmp_path / "run").read_text() == "dear"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "report.md"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        folder.write_atomically(file, "new \ud800")
    assert file.read_text() == "old"
    folder.write_atomically(file, "new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_only_a_finished_run_is_finished(begun, tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        folder.check_finished(tmp_path)
    with pytest.raises(UserError, match="has not finished"):
        folder.check_finished(begun)
    (begun / folder.CARD).write_text("{}")
    folder.check_finished(begun)
