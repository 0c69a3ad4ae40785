"""Labels of every type, and the types that do not go together."""

from __future__ import annotations

import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tf_finetune.data.sources import read
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig


def load(folder, task, labels, kind="jsonl", **settings):
    """Reads a file with these labels; csv takes the strings as they are."""
    path = folder / f"a.{kind}"
    if kind == "csv":
        path.write_text("text,label\n" + "".join(f'x,"{label}"\n' for label in labels))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": "x", "label": v}) + "\n" for v in labels))
    else:
        pq.write_table(pa.table({"text": ["x"] * len(labels), "label": labels}), path)
    table, findings = read(DataConfig(path=str(path), **settings), task, folder / "run")
    counts = {kind: findings.count(kind) for kind in findings.kinds()}
    return table["label"].to_pylist(), counts


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("csv", [" pos ", "1", "2.0", "0.5"], ["pos", "1", "2.0", "0.5"]),
        ("jsonl", ["pos", "neg "], ["pos", "neg"]),
        ("jsonl", [0, 1, 2.0], ["0", "1", "2"]),
        ("jsonl", [True, False], ["True", "False"]),
        ("parquet", [0, 1, None], ["0", "1"]),
        ("parquet", [0.0, 1.0, float("nan")], ["0", "1"]),
        ("parquet", [Decimal(1), Decimal(2)], ["1", "2"]),
        ("parquet", pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        ("parquet", [b"a", b"b"], ["a", "b"]),
    ],
)
def test_classes_become_strings(tmp_path, kind, labels, expected):
    found, counts = load(tmp_path, "classification", labels, kind)
    assert found == expected
    missing = len(labels) - len(expected)
    assert counts == ({"missing label": missing} if missing else {})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, "pos"], r"mixes types: 1 at .*a\.jsonl:1, 'pos' at .*a\.jsonl:2"),
        ([None, True, "yes"], r"mixes types: True at .*:2, 'yes' at .*:3"),
        ([1, True], r"mixes types"),
        ([1, 0.5], r"a\.jsonl:2: the label is the number 0\.5.*model\.task=regression"),
        ([float("inf")], r"a\.jsonl:1: the label is the number inf"),
        ([["a", "b"]], r"a\.jsonl:1: the label is \['a', 'b'\].*model\.task=multi_label"),
        ([{"a": 1}], r"a\.jsonl:1: the label is \{'a': 1\}"),
    ],
)
def test_labels_that_are_no_classes(tmp_path, labels, message):
    with pytest.raises(UserError, match=message):
        load(tmp_path, "classification", labels)


def test_a_label_of_another_type_in_the_next_file_is_allowed(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": 1}\n')
    (tmp_path / "b.csv").write_text("text,label\nx,1\n")
    config = DataConfig(path=str(tmp_path / "a.jsonl"), test=str(tmp_path / "b.csv"))
    table, _ = read(config, "classification", tmp_path / "run")
    assert table["label"].to_pylist() == ["1", "1"]


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("csv", ["a|b", " b | a |a", "", "c"], [["a", "b"], ["b", "a"], [], ["c"]]),
        ("jsonl", [["a", "b"], [], None, "b|c"], [["a", "b"], [], ["b", "c"]]),
        ("jsonl", [[1, 2], [2.0]], [["1", "2"], ["2"]]),
        ("parquet", [["a"], ["b", "a"], None, ["a", None]], [["a"], ["b", "a"]]),
    ],
)
def test_several_labels_a_row(tmp_path, kind, labels, expected):
    found, counts = load(tmp_path, "multi_label", labels, kind)
    assert found == expected
    assert sum(counts.values()) == len(labels) - len(expected)


def test_label_separator(tmp_path):
    found, _ = load(tmp_path, "multi_label", ["a;b|c"], "csv", label_separator=";")
    assert found == [["a", "b|c"]]


def test_mixed_types_within_lists(tmp_path):
    with pytest.raises(UserError, match="mixes types"):
        load(tmp_path, "multi_label", [["a"], [1]])


def test_targets(tmp_path):
    found, counts = load(tmp_path, "regression", ["1", " 2.5 ", "-3e2", "", "nan", "inf"], "csv")
    assert found == [1.0, 2.5, -300.0]
    assert counts == {"missing label": 1, "non-finite target": 2}
    found, counts = load(tmp_path, "regression", [1, 2.5, None, float("nan")])
    assert found == [1.0, 2.5]
    assert counts == {"missing label": 1, "non-finite target": 1}


@pytest.mark.parametrize("label", ["good", "1,5", True, [1.0], {}])
def test_targets_that_are_no_numbers(tmp_path, label):
    with pytest.raises(UserError, match=r"a\.jsonl:2: the label is .*regression takes a number"):
        load(tmp_path, "regression", [1.0, label])


def test_other_scalars_as_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 12, "label": "a"}\n{"text": 1.5, "label": "a"}\n')
    config = DataConfig(path=str(tmp_path / "a.jsonl"))
    table, _ = read(config, "classification", tmp_path / "run")
    assert table["text"].to_pylist() == ["12", "1.5"]


def test_a_printed_list_is_no_label(tmp_path):
    with pytest.raises(UserError, match=r"a printed list. Write the labels of a row with"):
        load(tmp_path, "multi_label", ["['sport', 'politics']"])
