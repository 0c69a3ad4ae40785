import json
import tracemalloc

import numpy as np
import pytest
from sklearn import metrics

from tf_finetune.errors import UserError
from tf_finetune.results.evaluate import card, gain, majority_baseline, score

NAMES = ("bad", "fair", "good", "unseen")


@pytest.fixture
def classes():
    random = np.random.default_rng(1)
    labels = random.choice(3, size=200, p=[0.6, 0.3, 0.1]).astype("int32")
    outputs = random.dirichlet(np.ones(4) * 0.5, size=200)
    outputs[:, :3] += 0.7 * np.eye(3)[labels]
    outputs[:, 3] *= 0.01
    return outputs / outputs.sum(axis=1, keepdims=True), labels


@pytest.fixture
def many_labels():
    random = np.random.default_rng(2)
    labels = (random.random((150, 4)) < [0.5, 0.3, 0.1, 0.0]).astype("float32")
    return np.clip(0.6 * labels + 0.7 * random.random((150, 4)), 0, 1), labels


def test_classification_agrees_with_scikit_learn(classes):
    outputs, labels = classes
    scores, chosen = score("classification", outputs, labels, NAMES), outputs.argmax(axis=1)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(labels, chosen))
    assert scores["macro_f1"] == pytest.approx(
        metrics.f1_score(labels, chosen, average="macro", zero_division=0)
    )
    assert scores["log_loss"] == pytest.approx(
        metrics.log_loss(labels, outputs.astype("float64"), labels=range(4)), rel=1e-5
    )
    expected = metrics.confusion_matrix(labels, chosen, labels=range(4))
    assert scores["confusion"] == expected.tolist()
    columns = metrics.precision_recall_fscore_support(
        labels, chosen, labels=range(4), zero_division=0
    )
    for i, name in enumerate(NAMES):
        assert list(scores["per_class"][name].values()) == pytest.approx([c[i] for c in columns])


def test_multi_label_agrees_with_scikit_learn(many_labels):
    outputs, labels = many_labels
    scores, chosen = score("multi_label", outputs, labels, NAMES), outputs >= 0.5
    assert scores["subset_accuracy"] == pytest.approx(metrics.accuracy_score(labels, chosen))
    assert scores["micro_f1"] == pytest.approx(
        metrics.f1_score(labels, chosen, average="micro", zero_division=0)
    )
    occurs = np.flatnonzero((labels + chosen).any(axis=0))
    assert scores["macro_f1"] == pytest.approx(
        metrics.f1_score(labels, chosen, labels=occurs, average="macro", zero_division=0)
    )
    columns = metrics.precision_recall_fscore_support(labels, chosen, zero_division=0)
    for i, name in enumerate(NAMES):
        assert list(scores["per_class"][name].values()) == pytest.approx([c[i] for c in columns])


def test_regression_agrees_with_scikit_learn():
    random = np.random.default_rng(3)
    labels = (1e6 + random.normal(size=100)).astype("float64")
    outputs = labels[:, None] + random.normal(0, 0.3, size=(100, 1))
    scores = score("regression", outputs, labels, ("price",))
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(labels, outputs))
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(labels, outputs))
    assert scores["r2"] == pytest.approx(metrics.r2_score(labels, outputs))
    assert scores["mae_interval"][0] < scores["mae"] < scores["mae_interval"][1]
    assert scores["r2_interval"][0] < scores["r2"] < scores["r2_interval"][1]


def test_the_interval_is_that_of_resampled_rows(classes):
    outputs, labels = classes
    scores = score("classification", outputs, labels, NAMES, bootstrap=4000)
    random, chosen = np.random.default_rng(9), outputs.argmax(axis=1)
    rows = [random.integers(200, size=200) for _ in range(1000)]
    for name, figure in (
        ("accuracy", metrics.accuracy_score),
        ("macro_f1", lambda y, p: metrics.f1_score(y, p, average="macro", zero_division=0)),
    ):
        plain = np.percentile([figure(labels[r], chosen[r]) for r in rows], [2.5, 97.5])
        assert scores[f"{name}_interval"] == pytest.approx(plain, abs=0.015)


def test_the_same_seed_gives_the_same_interval(many_labels):
    first, again, other = (score("multi_label", *many_labels, NAMES, seed=s) for s in (5, 5, 6))
    assert first == again
    assert first["macro_f1_interval"] != other["macro_f1_interval"]


def test_memory_is_bounded_by_chunks(classes, monkeypatch):
    whole = score("classification", *classes, NAMES, bootstrap=4000)
    monkeypatch.setattr("tf_finetune.results.resampling._MOST_WEIGHTS", 1)
    chunked = score("classification", *classes, NAMES, bootstrap=4000)
    assert chunked == whole


def test_majority_baseline_guesses_the_most_frequent_training_class():
    train, test = np.array([1, 1, 1, 0], "int32"), np.array([1, 0, 0, 1, 0], "int32")
    scores = majority_baseline("classification", train, test, ("no", "yes"))
    assert scores["accuracy"] == pytest.approx(0.4)
    assert scores["confusion"] == [[0, 3], [0, 2]]
    assert scores["log_loss"] == pytest.approx(-np.mean(np.log([0.75, 0.25, 0.25, 0.75, 0.25])))


def test_majority_baseline_of_the_other_tasks():
    many = majority_baseline(
        "multi_label", np.array([[1, 0], [1, 1], [1, 0]]), np.array([[1, 0], [0, 1]]), ("a", "b")
    )
    assert many["subset_accuracy"] == pytest.approx(0.5)
    mean = majority_baseline("regression", np.array([1.0, 3.0]), np.array([2.0, 6.0]), ("v",))
    assert mean["mae"] == pytest.approx(2.0)
    assert mean["r2"] == pytest.approx(-1.0)


def test_equal_labels_leave_r2_undefined():
    scores = score("regression", np.array([[1.0], [2.0]]), np.array([1.0, 1.0]), ("v",))
    assert scores["r2"] is None
    assert scores["r2_interval"] == [None, None]
    assert scores["mae"] == pytest.approx(0.5)


def test_gain_is_paired(classes):
    outputs, labels = classes
    worse = outputs.copy()
    worse[:60] = worse[:60, ::-1]
    found = gain("classification", outputs, worse, labels)
    right = (outputs.argmax(1) == labels).mean() - (worse.argmax(1) == labels).mean()
    assert found["figure"] == "accuracy"
    assert found["value"] == pytest.approx(right)
    assert found["interval"][0] < right < found["interval"][1]
    same = gain("classification", outputs, outputs, labels)
    assert (same["value"], same["interval"]) == (0.0, [0.0, 0.0])


def test_gain_in_regression_is_the_error_saved():
    labels = np.array([1.0, 2.0, 3.0])
    found = gain("regression", labels[:, None], labels[:, None] + 2, labels)
    assert (found["figure"], found["value"]) == ("mae", pytest.approx(2.0))


def test_card_is_json(classes, tmp_path):
    outputs, labels = classes
    test = score("classification", outputs, labels, NAMES)
    made = card(
        "classification",
        NAMES,
        test,
        {"majority": majority_baseline("classification", labels, labels, NAMES)},
        seconds=np.float32(2.5),
        export=tmp_path,
    )
    assert json.loads(json.dumps(made)) == made
    assert made["test"]["accuracy"] == test["accuracy"]
    assert len(made["test"]["accuracy_interval"]) == 2
    assert made["baselines"]["majority"]["accuracy"] < made["test"]["accuracy"]
    assert made["seconds"] == 2.5


def test_outputs_that_are_not_finite_are_the_sign_of_divergence(classes):
    outputs, labels = classes
    outputs[3, 0] = np.nan
    with pytest.raises(UserError, match=r"for 1 of 200 rows.*config\.fit\.learning_rate"):
        score("classification", outputs, labels, NAMES)


def test_no_rows_are_refused():
    with pytest.raises(UserError, match=r"config\.data\.test"):
        score("classification", np.zeros((0, 2)), np.zeros(0, "int32"), ("a", "b"))


def test_thousands_of_classes_have_no_matrix_of_their_own():
    generator = np.random.default_rng(0)
    k, n = 3000, 600
    labels = generator.integers(0, k, n)
    outputs = np.full((n, k), 1 / k)
    outputs[np.arange(n), np.where(np.arange(n) % 2, labels, (labels + 1) % k)] += 0.5
    tracemalloc.start()
    found = score("classification", outputs, labels, [str(i) for i in range(k)], bootstrap=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["accuracy"] == 0.5
    assert "confusion" not in found
    assert len(json.dumps(found)) < 1e6
    assert peak < 4 * outputs.nbytes + k * k * 8
    expected = metrics.f1_score(labels, outputs.argmax(axis=1), average="macro")
    assert found["macro_f1"] == pytest.approx(expected)


def test_the_interval_of_r2_leaves_out_equal_targets():
    labels = np.zeros(40)
    labels[0] = 1.0
    found = score("regression", np.full((40, 1), 0.1), labels, ("y",), bootstrap=1000)
    assert found["r2_interval"][0] > -100
