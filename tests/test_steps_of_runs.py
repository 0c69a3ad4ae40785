"""Micro-batches, mixup and R-Drop in whole runs."""

import copy

import numpy as np
import pytest

from tests import runs
from tests.runs import config_for
from tf_finetune.errors import UserError
from tf_finetune.plan import plan
from tf_finetune.train import fine_tune


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A pretrained model without dropout."""
    return runs.save_preset(tmp_path_factory.mktemp("still") / "still.keras", dropout=0.0)


def train(config, workdir):
    return fine_tune(config, workdir, runs.classes(), say=lambda line: None)


def test_micro_batches_change_the_memory_of_a_run_and_nothing_else(still, tmp_path):
    whole = config_for(still, dropout=0.0, class_weights="balanced", learning_rate=1e-3)
    parts = copy.deepcopy(whole)
    parts.fit.micro_batch = 5
    first, second = train(whole, tmp_path / "whole"), train(parts, tmp_path / "parts")
    for a, b in zip(first.model.weights, second.model.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5, err_msg=a.path)
    for a, b in zip(first.history, second.history, strict=True):
        assert a["step"] == b["step"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


@pytest.mark.parametrize("kind", ["classification", "multi_label", "regression"])
def test_all_together_for_every_task(preset, tmp_path, kind):
    data = {
        "classification": runs.classes,
        "multi_label": runs.several_labels,
        "regression": runs.numbers,
    }[kind]()
    config = config_for(preset, task=kind, micro_batch=6, mixup=0.3, r_drop=0.5, probe_epochs=1)
    found = []
    for name in ("first", "again") if kind == "multi_label" else ("only",):
        result = fine_tune(config, tmp_path / name, data, say=lambda line: None)
        assert [row["phase"] for row in result.history] == ["probe", "tune"]
        assert all(np.isfinite(row["loss"]) for row in result.history)
        found.append(result.model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(found[0], found[-1], strict=True))


def test_a_plan_takes_the_same_steps(preset):
    config = config_for(preset, micro_batch=6, mixup=0.3, r_drop=0.5, phases="full")
    assert "updates" in plan(config, runs.classes())


def test_r_drop_without_dropout_is_refused_before_training(still, tmp_path):
    config = config_for(still, dropout=0.0, r_drop=1.0)
    with pytest.raises(UserError, match=r"r_drop is 1.0, but there is no dropout"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
