import numpy as np
import pytest

from tf_finetune.results.slices import OTHERS, by_slice, length_buckets, wilson

OUTPUTS = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
LABELS = np.array([0, 1, 1, 1])


def test_each_part_is_told_with_wilson_s_interval():
    found = by_slice("classification", OUTPUTS, LABELS, {"from": np.array(["a", "b", "b", "a"])})
    assert [(f["by"], f["name"], f["rows"], f["value"]) for f in found] == [
        ("from", "a", 2, 1.0),
        ("from", "b", 2, 0.5),
    ]
    # Wilson's by hand: z^2 = 3.8415, 2 of 2.
    low, high = found[0]["interval"]
    assert low == pytest.approx(2 / (2 + 3.8415), abs=1e-3)
    assert high == pytest.approx(1.0)
    assert wilson(1, 2) == found[1]["interval"]


def test_of_many_values_the_largest_are_told():
    names = np.array([f"writer {i:02}" for i in range(30) for _ in range(30 - i)])
    labels = np.zeros(len(names), int)
    outputs = np.tile([0.9, 0.1], (len(names), 1))
    found = by_slice("classification", outputs, labels, {"who": names})
    assert [f["name"] for f in found] == [*(f"writer {i:02}" for i in range(10)), OTHERS]
    assert sum(f["rows"] for f in found) == len(names)


def test_parts_are_in_the_order_of_their_numbers():
    names = np.array(["10 to 12", "5 to 9", "100 to 120", "b", "a"])
    labels = np.zeros(5, int)
    found = by_slice("classification", np.tile([0.9, 0.1], (5, 1)), labels, {"x": names})
    assert [f["name"] for f in found] == ["5 to 9", "10 to 12", "100 to 120", "a", "b"]


def test_regression_has_the_mean_error_of_each_part():
    truth, outputs = np.arange(20.0), np.arange(20.0)[:, None] + np.repeat([1.0, -3.0], 10)[:, None]
    found = by_slice("regression", outputs, truth, {"half": np.repeat(["a", "b"], 10)})
    assert [f["value"] for f in found] == [1.0, 3.0]
    assert found[0]["interval"] == [1.0, 1.0]


def test_a_row_of_several_labels_is_right_as_a_whole():
    found = by_slice("multi_label", OUTPUTS, np.round(OUTPUTS), {"all": np.array(["x"] * 4)})
    assert found[0]["value"] == 1.0
    wrong = np.round(OUTPUTS)
    wrong[0, 1] = 1
    found = by_slice("multi_label", OUTPUTS, wrong, {"all": np.array(["x"] * 4)})
    assert found[0]["value"] == 0.75


def test_buckets_of_lengths_are_named_by_what_they_hold():
    names = length_buckets(np.array([5, 40, 8, 20, 21, 9, 30, 12]))
    assert dict(zip(*np.unique(names, return_counts=True), strict=True)) == {
        "5 to 8": 2,
        "9 to 12": 2,
        "20 to 21": 2,
        "30 to 40": 2,
    }
    assert set(length_buckets(np.array([7, 7, 7]))) == {"7 to 7"}
