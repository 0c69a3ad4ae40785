"""A regression learns the same whatever unit its targets are counted in."""

import numpy as np
import pytest

from tests.tiny import tiny_task
from tf_finetune.config import FitConfig, Phase
from tf_finetune.fit.feature_cache import FeatureStore, outputs_of
from tf_finetune.fit.loop import FitData, fit_phase

ROWS = np.arange(64)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_the_targets_does_not_matter(tmp_path, unit):
    features = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    targets = features.sum(axis=1)
    found, losses = [], []
    for scale in (1.0, unit):
        task = tiny_task(
            "regression", ("y",), target_std=float(targets.std() * scale), target_mean=5 * scale
        )
        labels = ((targets + 5) * scale).astype("float32")
        store = FeatureStore(features)
        result = fit_phase(
            task.head,
            FitData(store=store, labels=labels, train=ROWS[:48], validation=ROWS[48:]),
            Phase(name="p", train="head", epochs=3, learning_rate=1e-2),
            FitConfig(global_batch=16, precision="float32"),
            kind="regression",
            workdir=folder_for(tmp_path, scale),
            number=1,
            state={},
            say=lambda line: None,
        )
        found.append(outputs_of(task.head, store, ROWS, batch_size=64) / scale)
        losses.append([row["val_loss"] for row in result.history])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert losses[0][-1] < losses[0][0]


def folder_for(tmp_path, scale):
    (tmp_path / f"{scale}").mkdir()
    return tmp_path / f"{scale}"
