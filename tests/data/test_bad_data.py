"""Data that cannot be trained on: one clear message each, before any training."""

import pytest

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.prepare import prepare
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig, ModelConfig


def _texts(count):
    return [f"a{i} b{i} c{i} d{i}" for i in range(count)]


def _file(tmp_path, labels, texts=None):
    path = tmp_path / "data.csv"
    rows = zip(texts or _texts(len(labels)), labels, strict=True)
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return str(path)


def _message(tmp_path, path, task="classification", **data):
    config = FineTuneConfig(data=DataConfig(path=path, **data), model=ModelConfig(task=task))
    config.validate()
    with pytest.raises(UserError) as error:
        prepare(config, tmp_path)
    return str(error.value)


def test_one_class_only(tmp_path):
    message = _message(tmp_path, _file(tmp_path, ["pos"] * 50))
    assert message.startswith("config.data.label: all 40 training rows have the same label")
    assert '"pos" (column "label")' in message


def test_one_target_only(tmp_path):
    message = _message(tmp_path, _file(tmp_path, [3] * 50), task="regression")
    assert 'the same label, "3"' in message


@pytest.mark.parametrize("labels", [range(1000), [f"{i}.5" for i in range(1000)]])
def test_a_thousand_classes_by_mistake(tmp_path, labels):
    message = _message(tmp_path, _file(tmp_path, list(labels)))
    assert "1,000 different labels" in message
    assert "--config.model.task=regression" in message


def test_null_texts(tmp_path):
    texts = _texts(50)
    texts[3] = texts[7] = ""
    path = _file(tmp_path, ["a", "b"] * 25, texts)
    message = _message(tmp_path, path)
    assert "2 x empty text" in message
    assert "data.csv:5" in message
    assert "--config.data.bad_rows=drop" in message


def test_nothing_but_null_texts(tmp_path):
    path = _file(tmp_path, ["a", "b"] * 25, [""] * 50)
    assert "50 x empty text" in _message(tmp_path, path)
    assert "empty text" in _message(tmp_path, path, bad_rows="drop")


def test_a_test_fraction_that_leaves_a_class_empty(tmp_path):
    path = _file(tmp_path, ["common"] * 96 + ["rare"] * 4)
    message = _message(tmp_path, path, test="0.05", validation="0.25")
    assert message.startswith('config.data.test is 0.05, which leaves no row of class "rare" (4 ')
    assert "Raise it" in message


def test_a_test_fraction_that_leaves_no_row(tmp_path):
    path = _file(tmp_path, range(60))
    message = _message(tmp_path, path, task="regression", test="0.001")
    assert "config.data.test is 0.001 of 60 rows" in message


def test_too_few_rows_of_a_class(tmp_path):
    path = _file(tmp_path, ["a"] * 50 + ["b"] * 50 + ["c"])
    message = _message(tmp_path, path)
    assert 'config.data.min_per_class is 2, but of training rows class "c" has ' in message
    assert "min_per_class is 45" in _message(tmp_path, path, min_per_class=45)


def test_an_unknown_label(tmp_path):
    path = _file(tmp_path, ["pos", "neg"] * 25 + ["positiv"])
    message = _message(tmp_path, path, classes=("pos", "neg"))
    assert "1 x unknown label" in message
    assert 'data.csv:52 "positiv"' in message


def test_a_label_that_only_the_test_file_has(tmp_path):
    path = _file(tmp_path, ["pos", "neg"] * 25)
    (tmp_path / "test.csv").write_text("text,label\nfine,pos\nwell,mixed\n")
    message = _message(tmp_path, path, test=str(tmp_path / "test.csv"))
    assert "1 x unknown label" in message
    assert 'test.csv:3 "mixed"' in message


def test_leaks_with_the_policy_error(tmp_path):
    path = _file(tmp_path, ["pos", "neg"] * 25)
    (tmp_path / "test.csv").write_text("text,label\nA0 B0 c0  d0,pos\nother,neg\n")
    message = _message(tmp_path, path, test=str(tmp_path / "test.csv"), leaks="error")
    assert "1 x leak" in message
    assert "data.csv:2 like" in message
    assert "test.csv:2" in message
    assert "--config.data.leaks=drop" in message


def test_a_training_file_that_is_the_test_file(tmp_path):
    path = _file(tmp_path, ["pos", "neg"] * 25)
    test = tmp_path / "test.csv"
    test.write_text((tmp_path / "data.csv").read_text())
    message = _message(tmp_path, path, test=str(test))
    assert message.startswith("No training row is left (50 x leak)")


def test_conflicts_and_copies_with_the_policy_error(tmp_path):
    texts = ["same", "same", "again", "again", *_texts(96)]
    path = _file(tmp_path, ["a", "b", "a", "a"] + ["a", "b"] * 48, texts)
    assert "2 x label conflict" in _message(tmp_path, path, conflicts="error")
    assert "1 x exact duplicate" in _message(tmp_path, path, duplicates="error")


def test_a_limit_below_the_number_of_classes(tmp_path):
    path = _file(tmp_path, ["a", "b", "c"] * 30)
    assert "config.data.limit is 2" in _message(tmp_path, path, limit=2)


def test_nothing_but_the_table_is_written(tmp_path):
    path, folder = _file(tmp_path, ["pos"] * 50), tmp_path / "run"
    folder.mkdir()
    config = FineTuneConfig(data=DataConfig(path=path))
    with pytest.raises(UserError):
        prepare(config, folder)
    assert {file.name for file in folder.iterdir()} <= {"rows.arrow"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.csv", "run"]


def test_no_label_is_among_the_classes_given(tmp_path):
    path = _file(tmp_path, ["pos", "neg"] * 25)
    message = _message(tmp_path, path, classes=("Pos", "Neg"), bad_rows="drop")
    assert message.startswith("No usable row is left (50 x unknown label)")


def test_one_number_written_in_two_ways(tmp_path):
    message = _message(tmp_path, _file(tmp_path, ["0", "1"] * 25 + ["0.0", "1.0"] * 25))
    assert 'both "0" and "0.0", one number written in two ways' in message


@pytest.mark.parametrize("written", ["Neg", "NEG", "ne\u0301g"])
def test_a_class_written_in_two_ways(tmp_path, written):
    first = "n\u00e9g" if len(written) == 4 else "neg"
    path = _file(tmp_path, [first, "pos", written, "pos"] * 20)
    message = _message(tmp_path, path)
    assert "differ in case or Unicode form only" in message
    assert "config.data.classes" in message


def test_one_target_left_by_the_limit(tmp_path):
    path = _file(tmp_path, [0.0] * 60 + [1.0, 2.0, 3.0, 4.0])
    message = _message(tmp_path, path, task="regression", limit=1)
    assert 'training rows have the same label, "0"' in message
    assert "raise config.data.limit (1)" in message


def test_a_target_whose_square_is_none(tmp_path):
    path = _file(tmp_path, [1e19, *range(1, 50)])
    assert "1 x non-finite target" in _message(tmp_path, path, task="regression")
