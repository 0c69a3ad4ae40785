"""What a whole run's card says beyond its figures."""

import csv

import numpy as np
import pyarrow as pa
import pytest

from tests import runs
from tests.runs import config_for
from tf_finetune.exports.load import load_model
from tf_finetune.results import frozen_features
from tf_finetune.train import fine_tune


@pytest.fixture(scope="module")
def sliced(preset, tmp_path_factory):
    """A run on rows from two sources and four writers, some with a wrong label."""
    table = runs.classes(160)
    table["from"] = ["here" if i % 3 else "" for i in range(160)]
    table["writer"] = [f"writer {i % 4 if i < 120 else i}" for i in range(160)]
    for i in range(0, 120, 20):
        table["label"][i] = "pos" if table["label"][i] == "neg" else "neg"
    config = config_for(preset, slice="from", group="writer", epochs=3, learning_rate=3e-3)
    config.data.conflicts = config.data.duplicates = config.data.leaks = "warn"
    folder = tmp_path_factory.mktemp("sliced") / "run"
    return fine_tune(config, folder, table, say=lambda line: None), table


def rows_of(result, split):
    cache = result.workdir / "cache"
    table = pa.ipc.open_file(cache / "rows.arrow").read_all()
    return table.take(pa.array(np.load(cache / "splits.npz")[split])).to_pylist()


def test_slices_are_those_of_the_named_columns(sliced):
    result, _ = sliced
    card, test = result.metrics, rows_of(result, "test")
    by = {name: [s for s in card["slices"] if s["by"] == name] for name in ("from", "writer")}
    for column, role in (("from", "slice"), ("writer", "group")):
        assert sum(s["rows"] for s in by[column]) == len(test)
        names = {row[role] for row in test}
        assert {s["name"] for s in by[column]} - {"(all others)"} <= names
    right = result.model.predict([row["text"] for row in test]).argmax(axis=1) == [
        runs.CLASSES.index(row["label"]) for row in test
    ]
    here = [row["slice"] == "here" for row in test]
    (found,) = [s for s in by["from"] if s["name"] == "here"]
    assert found["value"] == np.mean(right[here])
    assert sum(s["rows"] for s in card["slices"] if s["by"] == "length in tokens") == len(test)


def test_mistakes_are_the_models_own_and_have_neighbours_that_it_trained_on(sliced):
    result, _ = sliced
    mistakes = result.metrics["mistakes"]
    assert mistakes
    trained = {row["text"] for row in rows_of(result, "train")}
    model = load_model(result.workdir)
    for mistake in mistakes:
        (shares,) = model.predict(mistake["texts"])
        assert model.class_names[shares.argmax()] == mistake["chosen"] != mistake["label"]
        assert shares.max() == pytest.approx(mistake["badness"], abs=1e-5)
        assert len(mistake["neighbours"]) == 3
        assert {n["texts"][0] for n in mistake["neighbours"]} <= trained
        likeness = [n["similarity"] for n in mistake["neighbours"]]
        assert likeness == sorted(likeness, reverse=True)


def test_all_training_labels_are_audited_on_features_of_the_untouched_backbone(sliced):
    result, _ = sliced
    with (result.workdir / "label_audit.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    train = rows_of(result, "train")
    assert sorted(int(row["row"]) for row in listed) == sorted(row["row"] for row in train)
    audit = result.metrics["label_audit"]
    assert audit["rows"] == len(train)
    assert sum(int(row["suspected"]) for row in listed) == audit["suspected"]
    given = {str(row["row"]): row["label"] for row in train}
    assert all(given[row["row"]] == row["label"] for row in listed)
    rows, features = frozen_features.kept(result.workdir / "cache")["train"]
    assert len(rows) == len(features) == len(train)


def test_drift_is_told_block_by_block(sliced):
    result, _ = sliced
    drift = result.metrics["drift"]
    assert len(drift) == 3  # the stem and two blocks
    assert drift[0]["cka"] is None
    assert all(0 < row["relative_l2"] < 1 for row in drift)
    assert all(0 < row["cka"] <= 1 for row in drift[1:])


def test_the_rest_of_the_card(sliced):
    result, _ = sliced
    card = result.metrics
    assert card["selective"][0]["accuracy"] == card["test"]["accuracy"]
    test = card["gain_over_probe"]["mcnemar"]
    assert 0 < test["p"] <= 1
    gained = (test["only_first"] - test["only_second"]) / card["test"]["rows"]
    assert gained == pytest.approx(card["gain_over_probe"]["value"])


def test_without_features_labels_cannot_be_audited(preset, tmp_path):
    config = config_for(preset, phases="full", probe_baseline=False, drift=False)
    result = fine_tune(config, tmp_path / "run", runs.classes(), say=lambda line: None)
    assert not {"label_audit", "drift"} & result.metrics.keys()
    assert not (tmp_path / "run" / "label_audit.csv").exists()
    assert all(mistake["neighbours"] == [] for mistake in result.metrics["mistakes"])


def test_regression_has_errors_and_neighbours(preset, tmp_path):
    config = config_for(preset, task="regression")
    result = fine_tune(config, tmp_path / "run", runs.numbers(), say=lambda line: None)
    card = result.metrics
    assert not {"label_audit", "selective", "calibration"} & card.keys()
    errors = [mistake["badness"] for mistake in card["mistakes"]]
    assert errors == sorted(errors, reverse=True)
    assert abs(float(card["mistakes"][0]["chosen"]) - float(card["mistakes"][0]["label"])) == (
        pytest.approx(errors[0], rel=0.05, abs=1)
    )
    assert len(card["mistakes"][0]["neighbours"]) == 3


def test_the_audit_of_labels_can_be_left_out(preset, tmp_path):
    config = config_for(preset, phases="probe", label_audit=False)
    result = fine_tune(config, tmp_path / "run", runs.classes(), say=lambda line: None)
    assert "label_audit" not in result.metrics
    assert not (tmp_path / "run" / "label_audit.csv").exists()


def test_of_many_rows_some_features_are_kept(tmp_path, monkeypatch):
    class Store:
        def batch(self, rows):
            return np.stack([rows, -rows], axis=1).astype("float32")

    monkeypatch.setattr(frozen_features, "MOST_ROWS", 10)
    splits = {"train": np.arange(100, 200), "validation": np.arange(5), "test": np.arange(50, 58)}
    frozen_features.keep(tmp_path / "cache", Store(), splits, seed=0)
    found = frozen_features.kept(tmp_path / "cache")
    assert set(found) == {"train", "test"}
    rows, features = found["train"]
    assert len(rows) == 10
    assert set(rows) <= set(splits["train"].tolist())
    assert rows.tolist() == sorted(rows)
    np.testing.assert_array_equal(features, Store().batch(rows))
    assert found["test"][0].tolist() == splits["test"].tolist()
    assert frozen_features.kept(tmp_path / "elsewhere") == {}


def test_a_row_alone_of_its_class_does_not_end_the_audit(preset, tmp_path, monkeypatch):
    """As it may be left of a rare class where some of many rows are looked at."""
    kept = frozen_features.kept

    def one_left(folder):
        found = kept(folder)
        rows, vectors = found["train"]
        labels = pa.ipc.open_file(folder / "rows.arrow").read_all()["label"].to_pylist()
        rare = [i for i, row in enumerate(rows) if labels[row] == "long"]
        chosen = np.setdiff1d(np.arange(len(rows)), rare[1:])
        assert len(rare) > 1
        return found | {"train": (rows[chosen], vectors[chosen])}

    monkeypatch.setattr(frozen_features, "kept", one_left)
    table = runs.classes(160)
    lengths = [len(text.split()) for text in table["text"]]
    longest = sorted(lengths)[-40]
    table["label"] = [
        "long" if length >= longest else label
        for length, label in zip(lengths, table["label"], strict=True)
    ]
    config = config_for(preset, phases="probe", duplicates="warn", leaks="warn")
    card = fine_tune(config, tmp_path / "run", table, say=lambda line: None).metrics
    assert card["label_audit"]["probe_accuracy"] > 0
    with (tmp_path / "run" / "label_audit.csv").open(newline="") as file:
        assert "long" not in {row["label"] for row in csv.DictReader(file)}
