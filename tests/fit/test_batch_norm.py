"""Normalisation layers of models of pictures in each phase: what is frozen stays, to the bit."""

import keras
import numpy as np
import pytest

from tests.tiny_pictures import tiny_image_task
from tf_finetune.fit.phased import fit_phases
from tf_finetune.fit.phases import Phase

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype("float32")
LABELS = np.arange(16) % 2
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def weights_of(task, part):
    """Of the backbone's normalisation layers, by name; of `part`: scales or statistics."""
    chosen = {}
    for layer in task.backbone.layers:
        if layer.name.endswith("norm"):
            some = layer.weights[2:] if part == "statistics" else layer.weights[:2]
            chosen[layer.name] = [v.numpy() for v in some]
    return chosen


def changed(before, after):
    return {
        name
        for name in before
        if any((a != b).any() for a, b in zip(before[name], after[name], strict=True))
    }


def trained(task, train, batch_norm="freeze"):
    phase = Phase(train=train, epochs=1, learning_rate=1e-2, batch_norm=batch_norm)
    before = weights_of(task, "statistics"), weights_of(task, "scales")
    fit_phases(
        task.network,
        (PIXELS, LABELS),
        phases=[phase],
        loss=LOSS,
        backbone=task.backbone,
        batch_size=8,
    )
    after = weights_of(task, "statistics"), weights_of(task, "scales")
    return changed(before[0], after[0]), changed(before[1], after[1])


ALL = {"stem_norm", "block1_a_norm", "block2_a_norm"}


@pytest.mark.parametrize(
    ("train", "batch_norm", "statistics", "scales"),
    [
        ("head", "freeze", set(), set()),
        ("last:1", "freeze", set(), set()),
        ("all", "freeze", set(), set()),
        ("all", "affine", set(), ALL),
        ("last:1", "affine", set(), {"block2_a_norm"}),
        ("last:1", "update", {"block2_a_norm"}, {"block2_a_norm"}),
        ("all", "update", ALL, ALL),
    ],
)
def test_batch_norms(train, batch_norm, statistics, scales):
    task = tiny_image_task()
    moved = trained(task, train, batch_norm)
    assert moved == (statistics, scales)
    if batch_norm != "update":  # training and inference are the same function
        once = task.backbone(PIXELS, training=True)
        np.testing.assert_array_equal(once, task.backbone(PIXELS, training=False))


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize(("train", "scales"), [("head", set()), ("all", ALL)])
def test_norms_without_statistics_train_where_they_are_selected(norm, train, scales):
    assert trained(tiny_image_task(norm=norm), train) == (set(), scales)
