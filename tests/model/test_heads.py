import numpy as np
import pytest

from tf_finetune.model import heads

LOGITS = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
LABELS = np.array([0, 2, 1, 1, 0], "int32")


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classification_loss_by_hand(smoothing):
    targets = np.eye(3)[LABELS] * (1 - smoothing) + smoothing / 3
    expected = -(targets * log_softmax(LOGITS)).sum(axis=1).mean()
    found = float(heads.loss("classification", smoothing)(LABELS, LOGITS))
    assert found == pytest.approx(expected, rel=1e-5)


def test_multi_label_loss_and_metric_take_logits():
    labels = np.eye(3, dtype="float32")[LABELS]
    p = 1 / (1 + np.exp(-LOGITS))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
    assert float(heads.loss("multi_label")(labels, LOGITS)) == pytest.approx(expected, rel=1e-5)
    (metric,) = heads.metrics("multi_label")
    assert float(metric(labels, LOGITS)) == pytest.approx(np.mean((LOGITS > 0) == labels))


def test_regression_loss_takes_flat_labels():
    values, labels = np.array([[1.0], [3.0]], "float32"), np.array([2.0, 5.0], "float32")
    assert float(heads.loss("regression")(labels, values)) == pytest.approx(2.5)


@pytest.mark.parametrize("kind", ["classification", "multi_label", "regression"])
def test_phases_are_judged_by_the_first_metric(kind):
    name, mode = heads.monitor(kind)
    assert name == f"val_{heads.metrics(kind)[0].name}"
    assert mode == ("min" if kind == "regression" else "max")
