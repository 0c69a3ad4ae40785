import numpy as np
import pyarrow as pa
import pytest

from tf_finetune.data import checks
from tf_finetune.data.findings import Findings
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

TRAIN, VALIDATION, TEST, OUT = 0, 1, 2, checks.LEFT_OUT


def _table(count, file="a.csv"):
    return pa.table(
        {
            "text": [f"text {i}" for i in range(count)],
            "file": [file] * count,
            "row": list(range(2, count + 2)),
        }
    )


def _sides(*sides):
    return np.array(sides, np.int8)


def _keys(*keys):
    return np.array(keys, np.uint64)


def _leaks(sides, policy="drop", **clusters):
    found = Findings()
    clusters = {kind.replace("_", " "): np.array(ids) for kind, ids in clusters.items()}
    config = DataConfig(leaks=policy)
    return checks.leaks(_table(len(sides)), sides, clusters, found, config), found


def test_a_leak_is_dropped_where_it_matters_less():
    sides = _sides(TRAIN, VALIDATION, TEST, TRAIN, VALIDATION, TRAIN, TRAIN)
    after, found = _leaks(sides, leak=[1, 1, 1, 2, 2, 3, 3])
    assert after.tolist() == [OUT, OUT, TEST, OUT, VALIDATION, TRAIN, TRAIN]
    assert found.count("leak") == 3
    assert found["leak"].examples[0] == ("a.csv:2 like row 4", "text 0")
    assert "drop" in found["leak"].action


def test_each_leak_counts_for_one_kind():
    sides = _sides(TRAIN, TEST, TRAIN, TRAIN)
    after, found = _leaks(sides, leak=[0, 0, 2, 3], near_leak=[0, 0, 0, 3])
    assert after.tolist() == [OUT, TEST, OUT, TRAIN]
    assert (found.count("leak"), found.count("near leak")) == (1, 1)


def test_a_row_left_out_before_leaks_nothing():
    after, found = _leaks(_sides(TRAIN, OUT, OUT, TEST), leak=[1, 1, 2, 2])
    assert after.tolist() == [TRAIN, OUT, OUT, TEST]
    assert found.kinds() == ()


def test_leaks_are_kept_and_said_with_warn():
    sides = _sides(TRAIN, TEST)
    after, found = _leaks(sides, "warn", leak=[1, 1])
    assert after.tolist() == sides.tolist()
    assert found["leak"].action == "Kept (config.data.leaks=warn)."


def test_leaks_stop_the_run_with_error():
    with pytest.raises(UserError, match=r"1 x group leak: a.csv:2 like row 3") as error:
        _leaks(_sides(TRAIN, TEST), "error", leak=[1, 2], group_leak=[1, 1])
    assert "--config.data.leaks=drop" in str(error.value)


def _conflicts(policy, sides, keys, labels):
    found = Findings()
    config = DataConfig(conflicts=policy)
    after = checks.conflicts(_table(len(sides)), sides, keys, np.array(labels), found, config)
    return after, found


def test_all_training_rows_of_a_conflict_are_dropped():
    sides = _sides(TRAIN, TRAIN, TRAIN, TRAIN, TEST, TEST)
    after, found = _conflicts("drop", sides, _keys(1, 1, 1, 2, 3, 3), [0, 0, 1, 0, 0, 1])
    assert after.tolist() == [OUT, OUT, OUT, TRAIN, TEST, TEST]
    assert found.count("label conflict") == 3
    assert found["label conflict"].action == "Left out (config.data.conflicts=drop)."
    # Those of other splits stay, and are not said to be left out.
    assert found.count("label conflict in test") == 2
    assert found["label conflict in test"].action.startswith("Kept: rows of this split")


def test_conflicts_policies():
    sides, keys, labels = _sides(TRAIN, TRAIN), _keys(1, 1), [0, 1]
    assert _conflicts("warn", sides, keys, labels)[0].tolist() == [TRAIN, TRAIN]
    with pytest.raises(UserError, match=r"2 x label conflict.*config.data.conflicts=drop"):
        _conflicts("error", sides, keys, labels)


def _copies(policy, sides, keys, labels):
    found = Findings()
    config = DataConfig(duplicates=policy)
    after = checks.copies(_table(len(sides)), sides, keys, np.array(labels), found, config)
    return after, found


def test_the_first_copy_stays_and_held_out_rows_are_not_changed():
    sides = _sides(TRAIN, TRAIN, TRAIN, TRAIN, TEST, TEST, VALIDATION)
    after, found = _copies("drop", sides, _keys(1, 1, 1, 2, 5, 5, 5), [0, 0, 1, 0, 0, 0, 0])
    assert after.tolist() == [TRAIN, OUT, TRAIN, TRAIN, TEST, TEST, VALIDATION]
    assert found.count("exact duplicate") == 1
    assert found.count("exact duplicate in test") == 1
    assert found.count("exact duplicate in validation") == 0
    assert found["exact duplicate in test"].action.startswith("Kept")


def test_copies_policies():
    assert _copies("warn", _sides(0, 0), _keys(1, 1), [0, 0])[0].tolist() == [TRAIN, TRAIN]
    with pytest.raises(UserError, match=r"1 x exact duplicate.*config.data.duplicates=drop"):
        _copies("error", _sides(0, 0), _keys(1, 1), [0, 0])
    _copies("error", _sides(TEST, TEST), _keys(1, 1), [0, 0])


def test_near_copies_are_noted_within_a_split():
    found = Findings()
    pairs = np.array([[0, 1], [0, 2], [1, 2], [0, 3], [4, 5]])
    sides = _sides(TRAIN, TRAIN, TRAIN, TEST, OUT, OUT)
    checks.near_copies(_table(6), sides, pairs, None, found)
    assert found.count("near duplicate") == 2
    checks.near_copies(_table(6), sides, np.empty((0, 2), np.int64), None, found)
    assert found.count("near duplicate") == 2
    assert found.kinds() == ("near duplicate",)


def test_near_copies_under_other_labels_are_noted_across_splits():
    found = Findings()
    pairs = np.array([[0, 1], [0, 2], [1, 2], [0, 3], [4, 5]])
    sides = _sides(TRAIN, TRAIN, TRAIN, TEST, OUT, OUT)
    checks.near_copies(_table(6), sides, pairs, np.array([0, 0, 1, 1, 0, 1]), found)
    assert [row for row, _ in found["near duplicate"].rows] == [1]
    assert found["near label conflict"].rows == [(2, 0), (3, 0)]
    assert found["near label conflict"].action.startswith("Kept")


def _absent(sides, labels, names, **made):
    found = Findings()
    checks.absent_classes(sides, np.array(labels), names, made, found)
    return found


def test_a_split_made_here_must_have_each_class():
    sides = _sides(TRAIN, TRAIN, VALIDATION, VALIDATION, TEST)
    with pytest.raises(UserError) as error:
        _absent(sides, [0, 1, 0, 1, 0], ("pos", "neg"), validation=0.1, test=0.1)
    assert 'config.data.test is 0.1, which leaves no row of class "neg" (2 rows in all)' in str(
        error.value
    )


def test_a_given_or_multi_label_split_may_lack_a_class():
    sides = _sides(TRAIN, TRAIN, VALIDATION, TEST)
    found = _absent(sides, [0, 1, 0, 1], ("pos", "neg"))
    assert found["class absent from validation"].examples == [("neg", "")]
    assert found["class absent from test"].examples == [("pos", "")]
    multi_hot = [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert _absent(sides, multi_hot, ("a", "b"), test=0.1).count("class absent from test") == 1


def test_a_split_made_here_must_have_a_row():
    sides = _sides(TRAIN, TRAIN, VALIDATION)
    with pytest.raises(UserError, match=r"config.data.test is 0.01 of 3 rows.*no row"):
        _absent(sides, [0.1, 0.2, 0.3], (), validation=0.3, test=0.01)
    with pytest.raises(UserError, match=r"config.data.test: no row of the test split is left"):
        _absent(sides, [0.1, 0.2, 0.3], (), validation=0.3)
