"""Sources prepared by TensorFlow Datasets."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tf_finetune.data.sources import read
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig


class TinyReviews(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "review": tfds.features.Text(),
            "mood": tfds.features.ClassLabel(names=["neg", "pos"]),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["x", "y"])),
            "stars": np.float64,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "test": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            tags = ["x", "y"][: i % 3]
            mood = -1 if i == 3 else i % 2
            yield i, {"review": f"é {count} {i}", "mood": mood, "tags": tags, "stars": i / 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyReviews(data_dir=str(folder)).download_and_prepare()
    return str(folder)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def load(folder, prepared, task="classification", labelled=True, **settings):
    settings = {"tfds": "tiny_reviews", "tfds_dir": prepared, "text": "review"} | settings
    return read(DataConfig(**settings), task, folder, labelled=labelled)


def test_splits_by_name_and_classes_by_name(tmp_path, prepared):
    table, findings = load(tmp_path, prepared, label="mood", validation="0.5", test="test")
    by_text = dict(zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert by_text == {
        "é 4 0": "neg",
        "é 4 1": "pos",
        "é 4 2": "neg",
        "é 2 0": "neg",
        "é 2 1": "pos",
    }
    assert table["split"].to_pylist() == ["", "", "", "test", "test"]
    assert table["file"][4].as_py() == "tiny_reviews/test"
    assert findings.count("missing label") == 1  # the class -1


def test_slices_as_splits(tmp_path, prepared):
    table, _ = load(
        tmp_path,
        prepared,
        "regression",
        label="stars",
        train="train[:2]",
        validation="train[2:]",
        test="test",
    )
    assert table["split"].to_pylist() == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert sorted(table["label"].to_pylist()) == [0, 0, 0.5, 0.5, 1, 1.5]


def test_sequences_of_classes(tmp_path, prepared):
    table, _ = load(tmp_path, prepared, "multi_label", label="tags")
    assert sorted(table["label"].to_pylist()) == [[], [], ["x"], ["x", "y"]]


def test_prediction_reads_the_split_called_train(tmp_path, prepared):
    table, _ = load(tmp_path, prepared, labelled=False, train="test", label="no")
    assert sorted(table["text"].to_pylist()) == ["é 2 0", "é 2 1"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": "valid"}, r'validation is "valid".*has the splits "test", "train"'),
        ({"train": "trian"}, r'config\.data\.train is "trian".*mean "train"'),
        ({"label": "label"}, r'no column "label".*"mood", "review", "stars", "tags"'),
        ({"split": "fold"}, r"config\.data\.split names a column"),
        ({"tfds": "tiny_review"}, r'it holds "tiny_reviews".*Did you mean "tiny_reviews"'),
        ({"tfds": "tiny_reviews:2.0.0"}, r'it holds "tiny_reviews/1\.0\.0"'),
        ({"tfds": "!"}, r"no prepared data set"),
    ],
)
def test_mistakes(tmp_path, prepared, settings, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, prepared, **{"label": "mood"} | settings)


def test_what_is_not_prepared_is_never_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(UserError) as error:
        load(tmp_path, "", tfds="imdb_reviews")
    message = str(error.value)
    assert f'no prepared data set "imdb_reviews" in "{tmp_path / "none"}"' in message
    assert "tfds.load('imdb_reviews')" in message
    assert "tfds build" in message
