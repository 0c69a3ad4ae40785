"""A head taken to its optimum: against scikit-learn's, and in whole runs."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from tests.runs import classes, config_for, numbers, several_labels
from tf_finetune.errors import UserError
from tf_finetune.fit.solver import PENALTIES, solutions

GENERATOR = np.random.default_rng(0)
FEATURES = GENERATOR.normal(3.0, [[0.1, 1.0, 20.0, 1.0]], (60, 4)).astype("float32")
SCALED = (FEATURES - FEATURES.mean(axis=0)) / FEATURES.std(axis=0)
LABELS = (SCALED @ [1.0, 2.0, -1.0, 0.0] + GENERATOR.normal(0, 1, 60) > 0).astype(int)


def found(kind, targets, weights=None, features=FEATURES):
    return {
        round(penalty, 6): features @ kernel + bias
        for penalty, kernel, bias in solutions(kind, features, targets, weights)
    }


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("penalty", [1.0, 0.1, 0.001])
def test_classes_as_scikit_learn_has_them(penalty, weighted):
    weights = np.where(LABELS == 1, 3.0, 1.0) if weighted else np.ones(60)
    theirs = LogisticRegression(C=1 / (penalty * weights.sum() / 2), tol=1e-10, max_iter=10_000)
    theirs.fit(SCALED, LABELS, sample_weight=weights)
    ours = found("classification", np.eye(2)[LABELS], weights)[penalty]
    # Of two outputs each has half of scikit-learn's single one, and so half of its penalty.
    assert np.allclose(ours[:, 1] - ours[:, 0], theirs.decision_function(SCALED), atol=2e-3)


def test_several_labels_are_so_many_questions():
    targets = np.stack([LABELS, 1 - LABELS], axis=1)
    ours = found("multi_label", targets)[0.1]
    theirs = LogisticRegression(C=1 / (0.1 * 2 * 60), tol=1e-10, max_iter=10_000)
    theirs.fit(SCALED, LABELS)
    assert np.allclose(ours[:, 0], theirs.decision_function(SCALED), atol=2e-3)
    assert np.allclose(ours[:, 0], -ours[:, 1], atol=2e-3)


def test_values_as_by_ridge_regression():
    values = SCALED @ [[1.0], [0.5], [0.0], [-2.0]] + 7
    theirs = Ridge(alpha=60 * 0.1 / 2).fit(SCALED, values)
    assert np.allclose(
        found("regression", values)[0.1].ravel(), theirs.predict(SCALED).ravel(), atol=1e-4
    )


def test_a_feature_that_says_nothing_is_left_alone():
    features = np.hstack([FEATURES, np.full((60, 1), 1e3, "float32")])
    for penalty, kernel, bias in solutions("classification", features, np.eye(2)[LABELS]):
        assert np.isfinite(kernel).all()
        assert np.isfinite(bias).all()
        assert np.allclose(kernel[-1], 0, atol=1e-6), penalty


@pytest.mark.parametrize("table", [classes, several_labels, numbers])
def test_a_run_keeps_the_best_penalty_and_goes_on(preset, tmp_path, table):
    from tf_finetune import fine_tune

    kind = {classes: "classification", several_labels: "multi_label", numbers: "regression"}
    said: list[str] = []
    config = config_for(preset, probe_solver="lbfgs", task=kind[table])
    result = fine_tune(config, tmp_path / "run", table(), say=said.append)
    probe, tune = result.metrics["phases"]
    assert [row["penalty"] for row in probe["history"]] == pytest.approx(PENALTIES)
    assert probe["audit"]["trained_moved"] == 2
    monitor, best = ("val_mae", min) if kind[table] == "regression" else ("val_accuracy", max)
    figures = [row[monitor] for row in probe["history"]]
    assert probe["history"][probe["best_epoch"] - 1][monitor] == best(figures)
    # The next phase begins with that head.
    assert tune["start"][monitor] == pytest.approx(best(figures), abs=1e-4)
    assert any(line.startswith("phase probe: solving for") for line in said)
    log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in log].count("probe") == len(PENALTIES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"probe_solver": "newton"}, "lbfgs"),
        ({"probe_solver": "lbfgs", "cache": False}, "cached features"),
        ({"probe_solver": "lbfgs", "phases": "full"}, "the head alone"),
        ({"probe_solver": "lbfgs", "probe_seeds": 3}, "does not depend"),
    ],
)
def test_what_the_solver_has_no_use_for_is_refused(preset, changes, words):
    with pytest.raises(UserError, match=words):
        config_for(preset, **changes).validate()
