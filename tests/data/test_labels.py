import numpy as np
import pyarrow as pa
import pytest

from tf_finetune.data.labels import (
    class_names,
    count_classes,
    encode,
    refuse_one_value,
    refuse_small_classes,
)
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig


def _table(labels, split=None):
    return pa.table({"label": labels, "split": split or [""] * len(labels)})


def test_classes_are_sorted_as_text_or_by_value():
    assert class_names(_table(["b", "a", "10", "9"]), DataConfig()) == ("10", "9", "a", "b")
    assert class_names(_table(["10", "9", "-1"]), DataConfig()) == ("-1", "9", "10")


def test_given_classes_keep_their_order():
    assert class_names(_table(["a"]), DataConfig(classes=("b", "a"))) == ("b", "a")


def test_classes_come_from_training_rows_alone():
    table = _table(["a", "b", "c", "d"], ["train", "", "validation", "test"])
    assert class_names(table, DataConfig()) == ("a", "b")


def test_classes_are_encoded_and_unknown_ones_marked():
    labels, known = encode(_table(["b", "a", "x"]), "classification", ("a", "b"))
    assert labels.dtype == np.int32
    assert labels.tolist() == [1, 0, -1]
    assert known.tolist() == [True, True, False]


def test_several_labels_become_multi_hot():
    column = pa.chunked_array([[["a", "c"], []], [["b", "x"], ["c"]]], pa.list_(pa.string()))
    labels, known = encode(_table(column), "multi_label", ("a", "b", "c"))
    assert labels.dtype == np.float32
    assert labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert known.tolist() == [True, True, False, True]
    assert class_names(_table(column), DataConfig()) == ("a", "b", "c", "x")


def test_targets_are_float32():
    labels, known = encode(_table([0.5, 2.0]), "regression", ())
    assert labels.dtype == np.float32
    assert labels.tolist() == [0.5, 2.0]
    assert known.all()


@pytest.mark.parametrize(
    ("labels", "mend"),
    [
        ([f"{i / 7:.3f}" for i in range(300)], "--config.model.task=regression"),
        ([str(i) for i in range(1000)], "--config.model.task=regression"),
        ([f"review {i}" for i in range(300)], "free text or identifiers"),
    ],
)
def test_a_column_of_values_is_no_column_of_classes(labels, mend):
    with pytest.raises(UserError, match=r'column "stars" has .* different labels') as error:
        class_names(_table(labels), DataConfig(label="stars"))
    assert mend in str(error.value)


def test_many_classes_with_rows_enough_are_classes():
    labels = [str(i % 150) for i in range(150 * 4)]
    assert len(class_names(_table(labels), DataConfig())) == 150


@pytest.mark.parametrize(
    ("labels", "names", "value"),
    [
        (np.zeros(5, np.int32), ("pos", "neg"), '"pos"'),
        (np.full(5, 2.5, np.float32), (), '"2.5"'),
        (np.ones((5, 2), np.float32), ("a", "b"), '"a, b"'),
    ],
)
def test_one_value_only_is_refused(labels, names, value):
    with pytest.raises(UserError, match=f"all 5 training rows have the same label, {value}"):
        refuse_one_value(labels, names, DataConfig())
    labels[0] = 1 - labels[0]
    refuse_one_value(labels, names, DataConfig())


def test_small_classes_are_refused_by_name():
    labels = np.array([0, 0, 0, 1], np.int32)
    with pytest.raises(UserError, match=r'min_per_class is 2.*"b" has 1, "c" has 0\.'):
        refuse_small_classes(labels, ("a", "b", "c"), DataConfig())
    refuse_small_classes(labels, ("a", "b"), DataConfig(min_per_class=1))


def test_classes_are_counted_in_either_form():
    assert count_classes(np.array([0, 2, 2]), 4).tolist() == [1, 0, 2, 0]
    assert count_classes(np.array([[1, 0], [1, 1]], np.float32), 2).tolist() == [2, 1]
