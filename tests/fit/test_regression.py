"""Regression in a phase: the unit of its targets, and rates that are too high."""

import numpy as np
import pytest

from tests.tiny import tiny_task
from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.fit.examples import examples_of_rows
from tf_finetune.fit.feature_cache import FeatureStore, outputs_of
from tf_finetune.fit.loop import adamw_of, fit_phase
from tf_finetune.fit.objective import objective_of
from tf_finetune.fit_settings import FitConfig
from tf_finetune.model.blocks import layer_groups

ROWS = np.arange(64)
FEATURES = FeatureStore(np.random.default_rng(0).normal(size=(64, 16)).astype("float32"))
TARGETS = FEATURES.batch(ROWS).sum(axis=1) + 5


def train(folder, *, unit=1.0, rate=1e-2):
    """Trains a head on targets counted in a unit; returns it and the phase's result."""
    labels = (TARGETS * unit).astype("float32")
    task = tiny_task(
        "regression", ("y",), target_mean=float(labels.mean()), target_std=float(labels.std())
    )
    folder.mkdir()
    phase = Phase(name="p", train="head", epochs=3, learning_rate=rate)
    fit = FitConfig(global_batch=16, precision="float32")
    examples = examples_of_rows(FEATURES, labels, ROWS[:48], ROWS[48:], fit)
    groups = layer_groups(task.network, task.backbone)
    return task.head, fit_phase(
        task.head,
        examples,
        phase,
        objective=objective_of(task, fit.label_smoothing),
        optimizer=adamw_of(phase, examples.steps, groups, weight_decay=0.01, clip=1.0),
        workdir=folder,
        number=1,
        state={},
        say=lambda line: None,
    )


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_the_targets_does_not_matter(tmp_path, unit):
    head, result = train(tmp_path / "one")
    other, same = train(tmp_path / "other", unit=unit)
    np.testing.assert_allclose(
        outputs_of(other, FEATURES, ROWS, batch_size=64) / unit,
        outputs_of(head, FEATURES, ROWS, batch_size=64),
        rtol=1e-3,
        atol=1e-3,
    )
    losses = [[row["val_loss"] for row in made.history] for made in (result, same)]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert losses[0][-1] < losses[0][0]


def test_training_that_diverges_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"phase p, learning_rate 1e\+30: .*diverged"):
        train(tmp_path / "run", rate=1e30)
