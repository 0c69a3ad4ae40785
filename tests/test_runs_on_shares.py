"""Runs whose labels are shares of classes."""

import re

import numpy as np
import pytest

from tests import runs
from tests.runs import config_for
from tf_finetune.errors import UserError
from tf_finetune.find_rate import find_rate
from tf_finetune.plan import plan
from tf_finetune.train import fine_tune

HARD = runs.classes()
ONE_HOT = np.eye(2, dtype="float32")[[runs.CLASSES.index(name) for name in HARD["label"]]]


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    return runs.save_preset(tmp_path_factory.mktemp("preset") / "tiny.keras")


def run(preset, folder, labels, **changes):
    config = config_for(preset, classes=runs.CLASSES, **changes)
    config.data.soft_labels = isinstance(labels, np.ndarray)
    data = HARD | {"label": labels}
    return fine_tune(config, folder, data, say=lambda line: None)


CASES = {
    "as it is": {},
    "smoothed, mixed, in parts": {"label_smoothing": 0.1, "mixup": 0.4, "micro_batch": 4},
    "two passes": {"r_drop": 0.5, "class_weights": "balanced"},
    "balanced": {"sampling": "balanced"},
    "solved": {"phases": "probe", "probe_solver": "lbfgs", "class_weights": "balanced"},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_shares_of_one_class_train_as_labels_do(preset, tmp_path, changes):
    hard = run(preset, tmp_path / "hard", HARD["label"], **changes)
    soft = run(preset, tmp_path / "soft", ONE_HOT, **changes)
    for a, b in zip(hard.model.weights, soft.model.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-5, err_msg=a.path)
    assert hard.metrics["test"].keys() == soft.metrics["test"].keys()
    assert soft.metrics["test"]["accuracy"] == hard.metrics["test"]["accuracy"]


@pytest.mark.parametrize("solver", ["adamw", "lbfgs"])
def test_a_model_learns_shares_and_not_the_largest_class(preset, tmp_path, solver):
    shares = np.where(ONE_HOT > 0, 0.7, 0.3).astype("float32")
    changes = {"phases": "probe", "probe_solver": solver}
    if solver == "adamw":
        changes |= {"probe_epochs": 60, "probe_learning_rate": 0.3}
    found = {}
    for name, labels in (("hard", HARD["label"]), ("soft", shares)):
        result = run(preset, tmp_path / name, labels, dropout=0.0, **changes)
        found[name] = result.model.predict(HARD["text"]).max(axis=1)
        calibration = result.metrics["calibration"]["after"]["ece"]
        assert calibration < 0.15
    assert np.quantile(found["hard"], 0.9) > 0.85
    assert found["soft"].mean() == pytest.approx(0.7, abs=0.06)


def test_a_class_that_is_never_the_largest_is_weighted_too(preset, tmp_path):
    shares = np.pad(ONE_HOT * 0.7, ((0, 0), (1, 0)), constant_values=0.3)
    changes = {"probe_solver": "lbfgs", "class_weights": "balanced", "soft_labels": True}
    config = config_for(preset, phases="probe", **changes)
    data = HARD | {"label": shares.astype("float32")}
    result = fine_tune(config, tmp_path / "run", data, say=lambda line: None)
    assert result.model.class_names == ("0", "1", "2")
    assert result.model.predict(HARD["text"])[:, 0].mean() == pytest.approx(0.3, abs=0.05)


def test_plan_and_the_search_for_a_rate_take_shares(preset, tmp_path):
    config = config_for(preset, classes=runs.CLASSES, class_weights="balanced", soft_labels=True)
    data = HARD | {"label": ONE_HOT * 0.8 + 0.1}
    assert re.search(r"^tune ", plan(config, data), re.MULTILINE)
    assert find_rate(config, data, say=lambda line: None).losses


def test_shares_belong_to_a_classification(preset, tmp_path):
    config = config_for(preset, task="multi_label", soft_labels=True)
    with pytest.raises(UserError, match=r"soft_labels is True, but config\.model\.task is multi"):
        fine_tune(config, tmp_path / "run", HARD, say=lambda line: None)
    assert not (tmp_path / "run").exists()
