"""Scores of tags, held against seqeval and against counts by hand."""

import numpy as np
import pytest

from tf_finetune.data.spans import in_iob2
from tf_finetune.errors import UserError
from tf_finetune.results.tag_scores import (
    WordTags,
    gain_of_tags,
    row_counts,
    score_tags,
    slices_of_tags,
)

TRUTH = [["B-A", "I-A", "O", "B-B"], ["O", "O"], ["B-A", "O"]]
CHOSEN = [["B-A", "I-A", "O", "B-A"], ["O", "B-A"], ["B-A", "I-A"]]


def many(count=60):
    generator = np.random.default_rng(0)
    tags = ["O", "O", "B-A", "I-A", "B-B"]
    truth = [in_iob2(generator.choice(tags, 6).tolist()) for _ in range(count)]
    flips = [[generator.random() < 0.2 for _ in row] for row in truth]
    chosen = [
        in_iob2(["O" if flip else tag for tag, flip in zip(*pair, strict=True)])
        for pair in zip(truth, flips, strict=True)
    ]
    return truth, chosen


def test_an_entity_is_right_where_type_and_words_are():
    assert row_counts(TRUTH, CHOSEN).tolist() == [[1, 2, 2], [0, 0, 1], [0, 1, 1]]
    found = score_tags(TRUTH, CHOSEN, bootstrap=100)
    assert (found["rows"], found["words"], found["entities"]) == (3, 8, 3)
    assert found["precision"] == pytest.approx(1 / 4)
    assert found["recall"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx(2 / 7)
    assert found["accuracy"] == pytest.approx(5 / 8)
    assert found["per_class"]["A"] == pytest.approx(
        {"precision": 0.25, "recall": 0.5, "f1": 1 / 3, "support": 2}
    )
    assert found["per_class"]["B"]["f1"] == 0


def test_intervals_hold_the_figure_and_narrow_with_rows():
    truth, chosen = many()
    found = score_tags(truth, chosen, bootstrap=500)
    for name in ("f1", "precision", "recall"):
        low, high = found[f"{name}_interval"]
        assert low < found[name] < high
    wide = np.diff(found["f1_interval"])
    assert np.diff(score_tags(truth * 9, chosen * 9, bootstrap=500)["f1_interval"]) < wide / 2


def test_nothing_chosen_and_nothing_there_are_zeros_not_errors(recwarn):
    assert score_tags(TRUTH, [["O"] * len(row) for row in TRUTH], bootstrap=100)["f1"] == 0
    none = score_tags([["O", "O"]], [["O", "O"]], bootstrap=100)
    assert (none["f1"], none["accuracy"], none["per_class"]) == (0, 1, {})
    assert not recwarn.list
    with pytest.raises(UserError, match="no rows to evaluate"):
        score_tags([], [])


def test_a_gain_is_of_the_same_rows():
    truth, chosen = many()
    worse = [["O"] * len(row) for row in truth]
    gain = gain_of_tags(truth, chosen, worse, bootstrap=300)
    assert gain["value"] == pytest.approx(score_tags(truth, chosen, bootstrap=100)["f1"])
    assert gain["interval"][0] > 0
    assert gain_of_tags(truth, chosen, chosen, bootstrap=100)["interval"] == [0, 0]


def test_slices_have_their_own_f1():
    truth, chosen = many()
    names = np.array(["x", "y"] * 30)
    first, second = slices_of_tags(truth, chosen, {"source": names}, bootstrap=100)
    assert (first["name"], first["rows"], second["by"]) == ("x", 30, "source")
    assert first["value"] == pytest.approx(score_tags(truth[::2], chosen[::2], bootstrap=100)["f1"])


def test_the_baseline_knows_each_words_most_frequent_tag():
    known = WordTags(
        [["Rome", "is", "Rome"], ["rome", "Is"], ["Rome"]],
        [["B-LOC", "O", "B-LOC"], ["O", "O"], ["O"]],
    )
    assert known.of(["Rome", "rome", "ROME", "new", "is"]) == ["B-LOC", "O", "B-LOC", "O", "O"]
