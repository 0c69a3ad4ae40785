"""What can be done again with a finished run."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest

from tests import runs
from tf_finetune.errors import ExportError, UserError
from tf_finetune.exports import every_format
from tf_finetune.exports.load import load_model
from tf_finetune.exports.parity import HARD_TEXTS
from tf_finetune.reexport import export_run
from tf_finetune.rerun import evaluate_run
from tf_finetune.train import fine_tune
from tf_finetune.workdir import read_card

NEW = {
    "text": ["good film good film", "bad bad was", "is a fine good plot", "poor poor poor bad"],
    "label": ["pos", "neg", "neg", "neg"],
}


def write(file, columns):
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([columns.keys(), *zip(*columns.values(), strict=True)])
    return str(file)


def figures(said):
    """The figures behind the lines for people."""
    return json.loads(said[said.index("\n{") :])


@pytest.fixture
def workdir(finished):
    return finished.result.workdir


@pytest.fixture
def copy(workdir, tmp_path):
    """A run folder that a test may damage."""
    return shutil.copytree(workdir, tmp_path / "copy", ignore=shutil.ignore_patterns("export"))


@pytest.fixture
def used(workdir):
    """Texts and labels that the run trained on."""
    table = pa.ipc.open_file(workdir / "cache" / "rows.arrow").read_all()
    rows = np.load(workdir / "cache" / "splits.npz")["train"][:3]
    return {name: table[name].take(pa.array(rows)).to_pylist() for name in ("text", "label")}


def test_without_a_file_the_card_is_shown(workdir, finished):
    before = runs.files_of(workdir)
    said = evaluate_run(workdir)
    accuracy = finished.result.metrics["test"]["accuracy"]
    assert f"test: accuracy {accuracy:.1%}" in said
    assert "knows only the training labels" in said
    assert runs.files_of(workdir) == before


def test_the_figures_of_a_file_are_the_models(workdir, tmp_path):
    before = runs.files_of(workdir)
    said = evaluate_run(workdir, write(tmp_path / "new.csv", NEW))
    shares = load_model(workdir).predict(NEW["text"])
    truth = np.array([runs.CLASSES.index(label) for label in NEW["label"]])
    found = figures(said)
    assert found["accuracy"] == np.mean(shares.argmax(axis=1) == truth)
    losses = -np.log(shares[np.arange(4), truth])
    assert found["log_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert (found["rows"], "seen" in found) == (4, False)
    assert said.startswith(f"{tmp_path / 'new.csv'}: 4 rows\n{{")
    assert runs.files_of(workdir) == before


def test_rows_that_the_run_trained_on_are_told(workdir, used, tmp_path):
    # Case and spaces do not make a text another one.
    again = {name: [*used[name], *NEW[name]] for name in NEW}
    again["text"][0] = f"  {again['text'][0].upper()} "
    said = evaluate_run(workdir, write(tmp_path / "both.csv", again))
    alone = figures(evaluate_run(workdir, write(tmp_path / "new.csv", NEW)))
    assert "\n3 of them stand in the data that the run trained or was chosen on" in said
    assert f"on the other 4: accuracy {alone['accuracy']:.1%}" in said
    assert (figures(said)["seen"], figures(said)["rows"]) == (3, 7)
    unseen = figures(said)["unseen"]
    # Batches of other texts differ in the last digit.
    assert unseen.pop("log_loss") == pytest.approx(alone.pop("log_loss"), rel=1e-5)
    assert unseen == alone


def test_a_file_of_nothing_new_says_so(workdir, used, tmp_path):
    said = evaluate_run(workdir, write(tmp_path / "old.csv", used))
    assert "All of them stand in the data" in said
    assert "say little about new texts" in said


def test_rows_of_the_test_split_are_told(workdir, tmp_path):
    table = pa.ipc.open_file(workdir / "cache" / "rows.arrow").read_all()
    rows = pa.array(np.load(workdir / "cache" / "splits.npz")["test"][:2])
    held = {name: table[name].take(rows).to_pylist() for name in NEW}
    both = {name: [*held[name], *NEW[name]] for name in NEW}
    said = evaluate_run(workdir, write(tmp_path / "both.csv", both))
    expected = "\n2 of them stand in the run's test or retained rows, by which it was"
    assert expected in said
    assert (figures(said)["judged"], figures(said)["rows"]) == (2, 6)
    assert "seen" not in figures(said)


def test_without_the_runs_data_nothing_is_known_of_them(copy, tmp_path):
    shutil.rmtree(copy / "cache")
    said = evaluate_run(copy, write(tmp_path / "new.csv", NEW))
    assert f"unknown: {copy}/cache is gone" in said


def test_settings_of_the_run_that_are_about_its_own_files_do_not_count(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    config["data"] |= {"group": "author", "split": "part", "where": "a=b"}
    config["data"] |= {"validation": "validation.csv", "test": "test.csv"}
    (copy / "config.json").write_text(json.dumps(config))
    assert figures(evaluate_run(copy, write(tmp_path / "new.csv", NEW)))["rows"] == 4


def test_other_columns_may_be_named(workdir, finished, tmp_path):
    data = dataclasses.replace(finished.config.data, text="review", label="stars")
    file = write(tmp_path / "new.csv", {"review": NEW["text"], "stars": NEW["label"]})
    assert figures(evaluate_run(workdir, file, data))["rows"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": ["pos", "neg", "fair", "neg"]}, r"unknown label(.|\n)*new.csv:4(.|\n)*fair"),
        ({"label": None}, 'no column "label"'),
        ({"text": None}, 'no column "text"'),
        ({"text": ["a", "", "b", "c"]}, r"empty text(.|\n)*new.csv:3"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(workdir, tmp_path, changes, message):
    columns = {name: column for name, column in (NEW | changes).items() if column}
    columns |= {"more": ["x"] * 4}
    with pytest.raises(UserError, match=message):
        evaluate_run(workdir, write(tmp_path / "new.csv", columns))


def test_bad_rows_may_be_left_out_but_not_all(workdir, finished, tmp_path):
    data = dataclasses.replace(finished.config.data, bad_rows="drop")
    mixed = NEW | {"label": ["pos", "neg", "fair", "neg"]}
    found = evaluate_run(workdir, write(tmp_path / "new.csv", mixed), data)
    assert figures(found)["rows"] == 3
    strange = NEW | {"label": ["fair"] * 4}
    with pytest.raises(UserError, match=r"no row to evaluate on \(.*unknown label"):
        evaluate_run(workdir, write(tmp_path / "strange.csv", strange), data)


@pytest.mark.parametrize("again", [evaluate_run, export_run])
def test_an_unfinished_run_is_refused(copy, again):
    (copy / "metrics.json").unlink()
    with pytest.raises(UserError, match="has not finished; give its train command again"):
        again(copy)
    assert not (copy / "export").exists()


@pytest.mark.parametrize("again", [evaluate_run, export_run])
def test_a_folder_without_a_run_is_refused(tmp_path, again):
    with pytest.raises(UserError, match="is no run folder"):
        again(tmp_path)


def test_export_elsewhere_predicts_the_same(workdir, finished, tmp_path):
    before = runs.files_of(workdir)
    said = export_run(workdir, tmp_path / "new" / "place")
    assert re.match(rf"exported to {tmp_path}/new/place/saved_model/1 \(\d+\.\d MB\); equal", said)
    # Those of the test split, and the hard ones.
    rows = finished.result.metrics["test"]["rows"] + len(HARD_TEXTS)
    assert re.search(rf"on {rows} texts in a fresh process, \d+\.\d ms a text$", said)
    served, model = load_model(tmp_path / "new" / "place"), load_model(workdir)
    np.testing.assert_allclose(served.predict(NEW["text"]), model.predict(NEW["text"]), atol=1e-5)
    assert runs.files_of(workdir) == before


def test_export_in_another_format(copy, tmp_path):
    shutil.rmtree(copy / "cache")
    before = runs.files_of(copy)
    said = export_run(copy, tmp_path / "new", ["keras_hub"])
    # The rows are gone: the hard texts are left.
    assert f" on {len(HARD_TEXTS)} texts in a fresh process" in said
    served, model = load_model(tmp_path / "new" / "keras_hub"), load_model(copy)
    np.testing.assert_array_equal(served.predict(NEW["text"]), model.predict(NEW["text"]))
    assert runs.files_of(copy) == before


def test_a_format_that_cannot_hold_the_model_is_refused(workdir, tmp_path):
    with pytest.raises(UserError, match='pooling is "mean", which transformers'):
        export_run(workdir, tmp_path / "new", ["keras_hub", "hugging_face"])
    assert not (tmp_path / "new").exists()


def test_export_to_what_is_not_ours_is_refused(workdir, tmp_path):
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "mine.txt").write_text("dear")
    with pytest.raises(UserError, match=r"mine\.txt"):
        export_run(workdir, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["saved_model", "mine.txt"]


def test_retained_rows_are_none_that_the_run_was_trained_on(preset, tmp_path):
    old = write(tmp_path / "old.csv", NEW)
    config = runs.config_for(preset, phases="probe", probe_epochs=1, retained=old)
    fine_tune(config, tmp_path / "run", runs.classes(), say=lambda line: None)
    said = evaluate_run(tmp_path / "run", old)
    assert "4 of them stand in the run's test or retained rows" in said
    assert "trained or was chosen on" not in said


def test_a_format_that_fails_stops_no_other_and_the_card_says_what_is_there(copy, monkeypatch):
    card = read_card(copy)
    card["failed_exports"] = {"keras_hub": "no room"}
    (copy / "metrics.json").write_text(json.dumps(card))
    form = every_format._Format(name="LiteRT file", write=lambda *_: None, run="raise ValueError")
    monkeypatch.setitem(every_format._FORMATS, "litert", form)
    both = r"(?s)exported to .*keras_hub.*LiteRT file does not run"
    with pytest.raises(ExportError, match=both):
        export_run(copy, formats=["litert", "keras_hub"])
    after = read_card(copy)
    assert set(after["exports"]) == {"saved_model", "keras_hub"}
    assert set(after["failed_exports"]) == {"litert"}
    assert after["export"] == card["export"]
    assert after["test"] == card["test"]
