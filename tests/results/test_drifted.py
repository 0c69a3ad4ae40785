"""How alike what blocks of pictures give is to what they gave."""

import keras
import numpy as np
import pytest

from tests.tiny_pictures import save_image_preset
from tf_finetune.exports.load import load_model
from tf_finetune.results.drifted import drift_by_block


class Pictures:
    def __init__(self, count, shape):
        self.lengths = np.ones(count, "int64")
        self._pixels = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype("uint8")

    def batch(self, rows):
        return self._pixels[rows]


def test_blocks_of_a_backbone_for_pictures_are_compared(tmp_path):
    preset = save_image_preset(tmp_path / "tiny.keras")
    task = load_model(preset)
    store, scaling = Pictures(40, (32, 32, 3)), task.get_layer("scaling")
    same = drift_by_block(str(preset), task.backbone, store, np.arange(40), 16, scaling)
    assert same[0]["block"] == "stem"
    assert len(same) > 2
    assert same[0]["cka"] is None
    assert all(row["cka"] == pytest.approx(1, abs=1e-6) for row in same[1:])
    kernels = [layer for layer in task.backbone.layers if isinstance(layer, keras.layers.Conv2D)]
    kernel = kernels[-1].kernel
    kernel.assign(kernel + np.random.default_rng(1).normal(size=kernel.shape, scale=0.5))
    moved = drift_by_block(str(preset), task.backbone, store, np.arange(40), 16, scaling)
    assert moved[-1]["relative_l2"] > 0.1
    assert moved[-1]["cka"] < 0.99
    assert moved[1]["cka"] == pytest.approx(1, abs=1e-6)


def test_what_is_inside_of_a_nested_graph_is_not_compared(tmp_path):
    """Its layers' outputs are of another graph than the backbone's."""
    inputs = keras.Input((32, 32, 3))
    inner = keras.Sequential([keras.layers.Conv2D(4, 3, name=f"c{i}") for i in range(3)])
    x = inner(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, x)
    model.save(tmp_path / "own.keras")
    store = Pictures(8, (32, 32, 3))
    found = drift_by_block(str(tmp_path / "own.keras"), model, store, np.arange(8), 4)
    assert found
    assert all(row["cka"] is None and row["relative_l2"] == 0 for row in found)
