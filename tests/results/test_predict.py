import csv
import json
import os
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from tf_finetune.config import FineTuneConfig
from tf_finetune.data import rows_file
from tf_finetune.errors import UserError
from tf_finetune.results import predict as module
from tf_finetune.results.predict import format_predictions, predict_file, predict_texts


class Model:
    """Scores a text by its length, so that each row can be told from another."""

    def __init__(self, kind="classification", class_names=("short", "long")):
        self.kind, self.class_names, self.seen = kind, class_names, []

    def predict(self, x):
        columns = x if isinstance(x, tuple) else (x,)
        self.seen.append(len(columns[0]))
        share = np.array([sum(map(len, row)) for row in zip(*columns, strict=True)]) / 100
        both = np.stack([1 - share, share], axis=1).astype("float32")
        return both[:, 1:] if self.kind == "regression" else both


@pytest.fixture
def config():
    return FineTuneConfig()


@pytest.fixture
def source(tmp_path):
    """100 rows with 1 to 99 letters, not in the order of their lengths."""
    lengths = [(i * 37) % 99 + 1 for i in range(100)]
    path = tmp_path / "in.csv"
    path.write_text("id,text\n" + "".join(f"{i},{'x' * n}\n" for i, n in enumerate(lengths)))
    return path, lengths


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_come_out_in_order_in_windows(source, config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WINDOW", 32)
    model, output = Model(), tmp_path / "new" / "out.jsonl"
    done = predict_file(model, source[0], output, config)
    assert model.seen == [32, 32, 32, 4]
    rows = read_lines(output)
    assert [row["row"] for row in rows] == list(range(2, 102))
    assert [row["probabilities"]["long"] for row in rows] == [n / 100 for n in source[1]]
    assert [row["label"] for row in rows] == ["long" if n > 50 else "short" for n in source[1]]
    assert (done.rows, done.undecodable, done.output) == (100, 0, output)
    assert os.listdir(output.parent) == ["out.jsonl"]


def test_memory_does_not_grow_with_the_file(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WINDOW", 256)
    monkeypatch.setattr(rows_file, "_BATCH_ROWS", 256)
    peaks, path = [], tmp_path / "in.csv"
    for rows in (1_000, 1_000, 20_000):  # the first also fills what is kept of modules
        path.write_text("text\n" + ("x" * 90 + "\n") * rows)
        tracemalloc.start()
        done = predict_file(Model(), path, tmp_path / f"{len(peaks)}.jsonl", config)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert done.rows == rows
    assert (tmp_path / "2.jsonl").stat().st_size > 4 * peaks[1]
    assert peaks[2] < 1.5 * peaks[1]


def test_csv_has_a_column_for_each_class(source, config, tmp_path):
    output = tmp_path / "out.csv"
    predict_file(Model(class_names=("a,b", 'c"')), source[0], output, config)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row", "label", "probability_a,b", 'probability_c"']
    assert [float(row['probability_c"']) for row in rows] == [n / 100 for n in source[1]]


def test_without_an_output_lines_go_to_stdout(source, config, capsys):
    predict_file(Model(), source[0], None, config)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 100
    assert list(rows[0]) == ["row", "label", "probabilities"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("multi_label", "row,labels,probability_short,probability_long\n2,short|long,0.5,0.5\n"),
        ("regression", "row,value\n2,0.5\n"),
    ],
)
def test_the_other_tasks(tmp_path, config, kind, expected):
    (tmp_path / "in.csv").write_text("text\n" + "x" * 50 + "\n")
    predict_file(Model(kind), tmp_path / "in.csv", tmp_path / "out.csv", config)
    assert (tmp_path / "out.csv").read_text() == expected


def test_pairs_use_both_columns(tmp_path, config):
    config.data.text_pair = "second"
    (tmp_path / "in.csv").write_text("second,text\nyyyy,xxx\n")
    predict_file(Model(), tmp_path / "in.csv", tmp_path / "out.jsonl", config)
    assert read_lines(tmp_path / "out.jsonl")[0]["probabilities"]["long"] == 0.07


def test_several_files_are_told_apart(tmp_path, config):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("text\nxxx\n")
    predict_file(Model(), tmp_path / "*.csv", tmp_path / "out.jsonl", config)
    rows = read_lines(tmp_path / "out.jsonl")
    assert [(os.path.basename(row["file"]), row["row"]) for row in rows] == [
        ("a.csv", 2),
        ("b.csv", 2),
    ]


def test_what_only_training_needs_is_not_asked_of_the_file(source, config, tmp_path):
    config.data.where, config.data.split, config.data.group = "source=imdb", "fold", "author"
    config.data.validation = "validation.csv"
    assert predict_file(Model(), source[0], tmp_path / "out.jsonl", config).rows == 100


def test_undecodable_rows_are_an_error_or_read_in_part(tmp_path, config):
    path, output = tmp_path / "in.csv", tmp_path / "out.jsonl"
    path.write_bytes(b"text\ngood\n\xff\xfe\xff\nfine\n")
    with pytest.raises(UserError, match=r"in\.csv:3.*--config\.data\.bad_rows=drop"):
        predict_file(Model(), path, output, config)
    assert os.listdir(tmp_path) == ["in.csv"]
    config.data.bad_rows = "drop"
    done = predict_file(Model(), path, output, config)
    assert (done.rows, done.undecodable) == (3, 1)
    assert [row["row"] for row in read_lines(output)] == [2, 3, 4]


def test_a_file_without_the_column_names_those_it_has(tmp_path, config):
    (tmp_path / "in.csv").write_text("id,review\n1,good\n")
    with pytest.raises(UserError, match=r'no column "text".*"id", "review"'):
        predict_file(Model(), tmp_path / "in.csv", tmp_path / "out.csv", config)
    assert os.listdir(tmp_path) == ["in.csv"]


def test_an_existing_output_is_not_written_over(source, config, tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(UserError, match=r'--output ".*out\.csv" exists'):
        predict_file(Model(), source[0], tmp_path / "out.csv", config)
    assert (tmp_path / "out.csv").read_text() == "mine"


def test_an_ending_that_is_not_known_is_refused(source, config, tmp_path):
    with pytest.raises(UserError, match=r"must end in \.jsonl or \.csv"):
        predict_file(Model(), source[0], tmp_path / "out.xlsx", config)


def test_a_folder_that_cannot_be_made_is_named(source, config):
    with pytest.raises(UserError, match=r"--output .* cannot be written"):
        predict_file(Model(), source[0], source[0] / "out.csv", config)


def test_a_failure_on_the_way_leaves_no_output(source, config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WINDOW", 32)
    model = Model()
    predict, calls = model.predict, iter([1, 2])

    def fail(x):
        if next(calls, None) is None:
            raise RuntimeError("stop")
        return predict(x)

    monkeypatch.setattr(model, "predict", fail)
    with pytest.raises(RuntimeError, match="stop"):
        predict_file(model, source[0], tmp_path / "out.csv", config)
    assert os.listdir(tmp_path) == ["in.csv"]


def test_texts_come_back_with_their_predictions():
    assert predict_texts(Model(), ["x" * 75, "y"]) == [
        {"text": "x" * 75, "label": "long", "probabilities": {"short": 0.25, "long": 0.75}},
        {"text": "y", "label": "short", "probabilities": {"short": 0.99, "long": 0.01}},
    ]
    assert predict_texts(Model(), []) == []


def test_pairs_of_texts():
    found = predict_texts(Model("regression"), [("x" * 20, "y" * 5)])
    assert found == [{"text": "x" * 20, "text_pair": "y" * 5, "value": 0.25}]


def test_predictions_for_a_terminal():
    rows = predict_texts(Model(), ["x" * 75, "a\nshort  one"])
    assert format_predictions(rows).splitlines() == [
        "long  75.0%   " + "x" * 75,
        "short  88.0%  a short one",
    ]
    assert format_predictions(predict_texts(Model("regression"), ["x"])) == "0.01  x"
    nothing = SimpleNamespace(
        kind="multi_label", class_names=("a",), predict=lambda x: np.zeros((1, 1), "float32")
    )
    assert format_predictions(predict_texts(nothing, ["x"])) == "(none)  x"
