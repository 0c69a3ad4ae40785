"""Shares of classes as labels, from every kind of source."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.labels import class_names, encode, encode_shares
from tf_finetune.data.prepare import prepare
from tf_finetune.data.sources import read
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig


def lines(folder, labels):
    path = folder / "a.jsonl"
    rows = [json.dumps({"text": f"x{i}", "label": v}) for i, v in enumerate(labels)]
    path.write_text("\n".join(rows))
    return str(path)


def found_of(folder, source=None, **settings):
    """The table's labels and shares, and what was found wrong."""
    config = DataConfig(soft_labels=True, **settings)
    table, findings = read(config, "classification", folder / "run", source)
    counts = {kind: findings.count(kind) for kind in findings.kinds()}
    shares = [dict(row) for row in table["shares"].to_pylist()]
    return table["label"].to_pylist(), shares, counts


def test_shares_and_votes_sum_to_one(tmp_path):
    given = [{"b": 0.75, "a": 0.25}, {"a": 3, " b ": 1}, {"a": 0, "b": 2.0, "c": None}]
    labels, shares, counts = found_of(tmp_path, path=lines(tmp_path, given))
    assert labels == ["b", "a", "b"]
    assert shares == [{"b": 0.75, "a": 0.25}, {"a": 0.75, "b": 0.25}, {"b": 1.0}]
    assert counts == {}


def test_a_plain_label_has_all_of_it_and_none_is_missing(tmp_path):
    given = ["a", {"a": 1, "b": 1}, None, {}, {"a": 0}, " "]
    labels, shares, counts = found_of(tmp_path, path=lines(tmp_path, given))
    assert labels == ["a", "a"]
    assert shares == [{"a": 1.0}, {"a": 0.5, "b": 0.5}]
    assert counts == {"missing label": 4}


def test_columns_of_arrays_frames_and_parquet(tmp_path):
    shares = np.array([[0.2, 0.8], [0.5, 0.5], [1.0, 0.0]], "float32")
    expected = [{"0": 0.2, "1": 0.8}, {"0": 0.5, "1": 0.5}, {"0": 1.0}]
    texts = ["x", "y", "z"]
    _, found, _ = found_of(tmp_path, (texts, shares))
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b)
    _, found, _ = found_of(tmp_path, (texts, shares), classes=("bad", "good"))
    assert [set(row) for row in found] == [{"bad", "good"}, {"bad", "good"}, {"bad"}]
    given = [{"a": 0.5, "b": 0.5}, {"b": 1.0}, {"a": 1.0}]
    frame = pd.DataFrame({"text": texts, "label": given})
    pq.write_table(pa.table({"text": texts, "label": given}), tmp_path / "a.parquet")
    for source, path in ((frame, ""), (None, str(tmp_path / "a.parquet"))):
        labels, found, _ = found_of(tmp_path, source, path=path)
        assert labels == ["a", "b", "a"]
        assert found == given


@pytest.mark.parametrize(
    "label", [{"a": -0.5, "b": 1}, {"a": "much"}, {"a": True}, {"a": {"b": 1}}, [0.5, 0.5]]
)
def test_what_is_no_share_is_told_with_its_row(tmp_path, label):
    with pytest.raises(UserError) as mistake:
        found_of(tmp_path, path=lines(tmp_path, [{"a": 1}, label]))
    said = str(mistake.value)
    assert f"a.jsonl:2: the label is {label}; with --config.data.soft_labels it is a class" in said
    assert "a number of at least 0 for each class" in said


def test_an_object_in_a_csv_file_is_no_class(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\nx,"{""a"": 0.7, ""b"": 0.3}"\n')
    with pytest.raises(UserError, match=r"a\.csv:2: .*a CSV file cannot hold one"):
        found_of(tmp_path, path=str(path))


def test_numbers_of_numpy_and_maps_of_parquet(tmp_path):
    given = [{"a": np.float32(0.25), "b": np.int64(3)}, {"b": np.float64(2.0)}]
    _, found, _ = found_of(tmp_path, {"text": ["x", "y"], "label": given})
    assert [list(row) for row in found] == [["a", "b"], ["b"]]
    shares = pa.array([[("a", 0.5), ("b", 1.5)]], pa.map_(pa.string(), pa.float64()))
    pq.write_table(pa.table({"text": ["x"], "label": shares}), tmp_path / "a.parquet")
    _, found, _ = found_of(tmp_path, path=str(tmp_path / "a.parquet"))
    assert found == [{"a": 0.25, "b": 0.75}]


def test_shares_that_are_not_asked_for_are_told(tmp_path):
    config = DataConfig(path=lines(tmp_path, [{"a": 0.7, "b": 0.3}]))
    with pytest.raises(UserError, match=r"--config\.data\.soft_labels=True"):
        read(config, "classification", tmp_path / "run")


def test_as_many_columns_as_classes(tmp_path):
    with pytest.raises(UserError, match="labels have 3 columns"):
        found_of(tmp_path, (["x"], np.ones((1, 3))), classes=("a", "b"))


def table_of(shares, split=""):
    labels = [max(row, key=row.__getitem__) for row in shares]
    of_rows = pa.array([[*row.items()] for row in shares], pa.map_(pa.string(), pa.float64()))
    return pa.table({"label": labels, "shares": of_rows, "split": [split] * len(shares)})


def test_classes_that_are_never_the_largest_count_too():
    shares = [{"b": 0.75, "c": 0.25}, {"a": 0.5, "b": 0.5}]
    table = pa.concat_tables([table_of(shares), table_of([{"x": 1.0}], "test")])
    names = class_names(table, DataConfig())
    assert names == ("a", "b", "c")
    matrix, known = encode_shares(table, names)
    assert known.tolist() == [True, True, False]
    assert matrix.tolist() == [[0, 0.75, 0.25], [0.5, 0.5, 0], [0, 0, 0]]
    labels, again = encode(table, "classification", names)
    assert labels.dtype == np.int32
    # Of equal shares that of the first class, as the accuracy of an epoch has it.
    assert labels.tolist() == [1, 0, -1]
    assert again.tolist() == known.tolist()


def prepared(folder, shares, **settings):
    config = FineTuneConfig()
    config.data.soft_labels, config.data.near_duplicates = True, 0.0
    config.data.validation = config.data.test = "0.2"
    for name, value in settings.items():
        setattr(config.data, name, value)
    folder.mkdir(exist_ok=True)
    return prepare(config, folder, ([f"text {i}" for i in range(len(shares))], shares))


def test_the_digest_is_also_that_of_the_shares(tmp_path):
    shares = np.tile([[0.8, 0.2], [0.3, 0.7]], (20, 1))
    first = prepared(tmp_path / "a", shares)
    shares[0] = 0.75, 0.25
    second = prepared(tmp_path / "b", shares)
    assert first.labels.tolist() == second.labels.tolist()
    np.testing.assert_allclose(second.targets, shares, rtol=1e-6)
    assert first.digest != second.digest
    assert "A row has shares of several classes" in first.report


def test_a_class_that_is_never_the_largest_can_be_learnt(tmp_path):
    shares = np.tile([[0.6, 0.1, 0.3], [0.1, 0.6, 0.3]], (20, 1))
    found = prepared(tmp_path / "a", shares)
    assert found.class_names == ("0", "1", "2")
    assert set(found.labels.tolist()) == {0, 1}


def test_shares_that_are_all_the_same_teach_nothing(tmp_path):
    with pytest.raises(UserError, match="all 24 training rows have the same label"):
        prepared(tmp_path / "a", np.tile([[0.7, 0.3]], (40, 1)))


def test_a_class_that_is_not_allowed_is_an_unknown_label(tmp_path):
    rows = [{"text": f"t{i}", "label": {"a": 0.6, "b": 0.4}} for i in range(40)]
    rows[7]["label"] = {"a": 0.9, "d": 0.1}
    for row in rows[1::2]:
        row["label"]["b"] = 2.0
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = FineTuneConfig()
    config.data.soft_labels, config.data.path = True, str(path)
    config.data.classes = ("a", "b")
    with pytest.raises(UserError, match=r"unknown label.*a\.jsonl:8.*a, (b, )?d"):
        prepare(config, tmp_path)
