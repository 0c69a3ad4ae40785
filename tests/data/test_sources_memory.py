"""Sources handed over in Python: arrays, pandas and tf.data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tf_finetune.data.sources import read
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

TEXTS = ["one", "two", "three"]
LABELS = [1, 0, 1]
TABLE = {"text": TEXTS, "label": LABELS}


def load(folder, source, task="classification", labelled=True, **settings):
    return read(DataConfig(**settings), task, folder, source, labelled=labelled)


def dataset(*values):
    return tf.data.Dataset.from_tensor_slices(values if len(values) > 1 else values[0])


@pytest.mark.parametrize(
    "source",
    [
        (TEXTS, LABELS),
        (np.array(TEXTS), np.array(LABELS)),
        (tf.constant(TEXTS), tf.constant(LABELS)),
        (pd.Series(TEXTS, index=[5, 6, 7]), np.array([[1], [0], [1]])),
        TABLE,
        {"text": np.array(TEXTS, dtype=object), "label": pd.Series([1.0, 0.0, 1.0]), "other": 1},
        pd.DataFrame(TABLE, index=[9, 9, 9]),
        pd.DataFrame(TABLE).astype({"text": "category", "label": "Int64"}),
        dataset(TEXTS, LABELS),
        dataset(TEXTS, LABELS).batch(2),
        dataset(TEXTS, [[1], [0], [1]]).batch(2),
        dataset(TABLE),
        dataset(TABLE).batch(2),
        dataset({"text": TEXTS}, LABELS),
        dataset(TEXTS, LABELS).filter(lambda text, label: True),
    ],
    ids=range(15),
)
def test_every_form_gives_the_same_rows(tmp_path, source):
    table, findings = load(tmp_path, source)
    assert table["text"].to_pylist() == TEXTS
    assert table["label"].to_pylist() == ["1", "0", "1"]
    assert table["file"].to_pylist() == ["data"] * 3
    assert table["row"].to_pylist() == [1, 2, 3]
    assert findings.kinds() == ()


def test_many_rows_keep_their_order_and_numbers(tmp_path):
    count = 10_000
    texts = [f"text {i}" for i in range(count)]
    for source in ((texts, np.arange(count)), dataset(texts, np.arange(count)).batch(999)):
        table, _ = load(tmp_path, source)
        assert table["text"].to_pylist() == texts
        assert table["label"].to_pylist() == [str(i) for i in range(count)]
        assert table["row"].to_pylist() == list(range(1, count + 1))


def test_pandas_nulls_are_bad_rows(tmp_path):
    frame = pd.DataFrame({"text": ["a", None, "c", "d"], "label": [1, 2, None, 0]})
    table, findings = load(tmp_path, frame)
    assert table["label"].to_pylist() == ["1", "0"]
    assert (findings.count("empty text"), findings.count("missing label")) == (1, 1)
    assert findings["missing label"].examples == [("data:3", "c")]


def test_split_dict(tmp_path):
    source = {"train": (TEXTS, LABELS), "validation": pd.DataFrame(TABLE), "test": TABLE}
    table, _ = load(tmp_path, source, validation="validation")
    assert table["split"].to_pylist() == ["train"] * 3 + ["validation"] * 3 + ["test"] * 3
    assert table["file"][8].as_py() == 'data["test"]'
    del source["validation"]
    table, _ = load(tmp_path, source)
    assert table["split"].to_pylist() == [""] * 3 + ["test"] * 3
    with pytest.raises(UserError, match=r'splits "valid"; allowed: train, validation, test'):
        load(tmp_path, {"train": TABLE, "valid": TABLE})
    with pytest.raises(UserError, match=r'config\.data\.test is "a\.csv", but the data has a test'):
        load(tmp_path, source, test="a.csv")


def test_data_replaces_the_configured_source(tmp_path):
    table, _ = load(tmp_path, TABLE, tfds="imdb_reviews")
    assert table["split"].to_pylist() == [""] * 3
    with pytest.raises(UserError, match=r'config\.data\.test: there is no file "test"'):
        load(tmp_path, TABLE, tfds="imdb_reviews", test="test")


def test_split_column_of_a_frame(tmp_path):
    frame = pd.DataFrame(TABLE | {"fold": [1, 2, 2]})
    table, _ = load(tmp_path, frame, split="fold", train="2", validation="1")
    assert table["split"].to_pylist() == ["validation", "", ""]
    with pytest.raises(UserError, match=r'config\.data\.test is "3".*it has: "1", "2"'):
        load(tmp_path, frame, split="fold", train="2", validation="1", test="3")


def test_pairs(tmp_path):
    for source in (
        ((TEXTS, TEXTS[::-1]), LABELS),
        TABLE | {"other": TEXTS[::-1]},
        dataset((TEXTS, TEXTS[::-1]), LABELS),
        dataset(({"text": TEXTS, "other": TEXTS[::-1]}), LABELS).batch(2),
    ):
        table, _ = load(tmp_path, source, text_pair="other")
        assert table["text_pair"].to_pylist() == TEXTS[::-1]
        assert table["label"].to_pylist() == ["1", "0", "1"]


@pytest.mark.parametrize(
    "labels",
    [
        [["a", "c"], [], ["c"]],
        np.array([[1, 0, 1], [0, 0, 0], [0, 0, 1]]),
        pd.Series([np.array(["a", "c"]), [], ["c"]]),
        ["a|c", "", "c"],
    ],
    ids=["lists", "multi-hot", "series", "joined"],
)
def test_several_labels_a_row(tmp_path, labels):
    table, _ = load(tmp_path, (TEXTS, labels), "multi_label", classes=("a", "b", "c"))
    assert table["label"].to_pylist() == [["a", "c"], [], ["c"]]


def test_several_labels_a_row_in_tf_data(tmp_path):
    hot = dataset(TEXTS, [[1, 0], [0, 0], [1, 1]])
    ragged = dataset(TEXTS, tf.ragged.constant([["0"], [], ["0", "1"]], dtype=tf.string))
    for source in (hot, hot.batch(2), ragged, ragged.batch(2)):
        table, _ = load(tmp_path, source, "multi_label")
        assert table["label"].to_pylist() == [["0"], [], ["0", "1"]]


def test_targets(tmp_path):
    table, findings = load(tmp_path, (TEXTS, np.float32([0.5, np.nan, 2])), "regression")
    assert table["label"].to_pylist() == [0.5, 2.0]
    assert findings.count("non-finite target") == 1


@pytest.mark.parametrize(
    "source",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS),
        pd.Series(TEXTS),
        (TEXTS, LABELS),
        TABLE,
        pd.DataFrame({"text": TEXTS}),
        dataset(TEXTS),
        dataset(TEXTS, LABELS).batch(2),
    ],
    ids=range(9),
)
def test_prediction_takes_bare_texts(tmp_path, source):
    table, _ = load(tmp_path, source, labelled=False)
    assert table.to_pydict()["text"] == TEXTS
    assert table.schema.names == ["text", "split", "file", "row"]


def test_prediction_of_pairs(tmp_path):
    for source in ((TEXTS, TEXTS), dataset(TEXTS, TEXTS), ((TEXTS, TEXTS), LABELS)):
        table, _ = load(tmp_path, source, labelled=False, text_pair="b")
        assert table["text_pair"].to_pylist() == TEXTS


def test_prediction_keeps_empty_and_null_texts(tmp_path):
    table, findings = load(tmp_path, ["a", "", None, float("nan")], labelled=False)
    assert table["text"].to_pylist() == ["a", "", "", ""]
    assert findings.kinds() == ()


def test_a_path_instead_of_data(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\n")
    for source in (path, str(path)):
        assert load(tmp_path, source, path="no.csv")[0].num_rows == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (TEXTS, r"data is a list; allowed: a pandas DataFrame"),
        (3, r"data is a int; allowed"),
        ((TEXTS, LABELS, LABELS), r"data gives 3 values instead of \(text, label\)"),
        ((TEXTS, LABELS[:2]), r'unequal length: "text" 3, "label" 2'),
        ({"body": TEXTS, "label": LABELS}, r'no column "text".*It has: "body", "label"'),
        ({"text": "one", "label": LABELS}, r'column "text" is a str; it must be a list'),
        ({"text": [], "label": []}, r"no rows"),
        ((TEXTS, tf.constant(1)), r'column "label"'),
        ((TEXTS, np.ones((3, 2, 2))), r"dimensions"),
        ((TEXTS, np.full((3, 2), 7)), r"zeros and ones"),
        ((TEXTS, np.eye(3)), r"data:1: .*multi_label"),
        ((TEXTS, [1, "a", 1]), r"mixes types: 1 at data:1, 'a' at data:2"),
        (([["a"], ["b"]], [1, 2]), r"data:1: config\.data\.text"),
        (pd.DataFrame([["a", "b", 1]], columns=["text", "text", "label"]), r"more than one column"),
        (dataset(TEXTS, LABELS).repeat(), r"never ends"),
        (dataset(TEXTS), r"data gives no label"),
        (dataset([[1, 2]], [1]), r'column "text" is int32; it must be text'),
        (dataset({"body": TEXTS}, LABELS), r'no column "text"'),
        ({"test": TABLE}, r'no column "text"'),
    ],
)
def test_mistakes(tmp_path, source, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, source)


def test_multi_hot_with_another_number_of_classes(tmp_path):
    with pytest.raises(UserError, match=r"labels have 3 columns, config\.data\.classes 2 names"):
        load(tmp_path, (TEXTS, np.eye(3)), "multi_label", classes=("a", "b"))


def test_labels_in_a_frame(tmp_path):
    texts, label = pd.DataFrame({"text": TEXTS}), pd.DataFrame({"label": ["a", "b", "a"]})
    table, _ = load(tmp_path, (texts, label))
    assert (table["text"].to_pylist(), table["label"].to_pylist()) == (TEXTS, ["a", "b", "a"])
    several = pd.DataFrame({"sport": [1, 0, 1], "politics": [1, 1, 0]})
    table, _ = load(tmp_path, (TEXTS, several), "multi_label")
    assert table["label"].to_pylist() == [["sport", "politics"], ["politics"], ["sport"]]
    with pytest.raises(UserError, match=r"a frame of 2 columns .*must all be 0 or 1"):
        load(tmp_path, (TEXTS, several * 2), "multi_label")
    with pytest.raises(UserError, match=r'"text" is a frame of 2 columns'):
        load(tmp_path, (several, label["label"]))
