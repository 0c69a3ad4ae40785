"""Grad-CAM: where a picture holds what speaks for an output."""

import keras
import keras_hub
import numpy as np
import pytest

from tests.tiny_pictures import tiny_image_backbone, tiny_image_task
from tf_finetune.model.image_task import ImageTask
from tf_finetune.results.grad_cam import NotDrawn, grad_cam

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
CHOSEN = np.array([0, 1, 1])


def by_hand(maps, kernel):
    """What mean pooling and a dense layer make of maps: then Grad-CAM is a weighted sum."""
    found = np.maximum(np.einsum("nhwc,cn->nhw", maps, kernel[:, CHOSEN]), 0)
    return found / found.max(axis=(1, 2), keepdims=True)


@pytest.mark.parametrize("frozen", [False, True])
def test_it_is_the_weighted_sum_of_the_maps(frozen):
    task = tiny_image_task()
    task.backbone.trainable = not frozen
    maps = task.backbone(task.get_layer("scaling")(PIXELS.astype("float32"))).numpy()
    kernel = task.head.get_layer("logits").get_weights()[0]
    found = grad_cam(task, PIXELS, CHOSEN)
    assert found.shape == (3, 8, 8)
    np.testing.assert_allclose(found, by_hand(maps, kernel), atol=1e-5)


def test_it_finds_what_the_network_looks_for():
    """Of a network that looks for red, and a picture that has some in a corner."""
    inputs = keras.Input((None, None, 3))
    red = keras.layers.Conv2D(2, 4, strides=4, use_bias=False, name="look")
    backbone = keras.Model(inputs, red(inputs))
    kernel = np.zeros((4, 4, 3, 2), "float32")
    kernel[:, :, 0, 0], kernel[:, :, 2, 1] = 1, 1
    red.set_weights([kernel])
    task = ImageTask(backbone, None, "classification", ("red", "blue"), size=(32, 32))
    task.head.get_layer("logits").set_weights([np.eye(2), np.zeros(2)])
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    pixels[:, :8, 24:, 0], pixels[:, 20:, :4, 2] = 255, 255
    for_red, for_blue = grad_cam(task, pixels, np.array([0, 1]))
    assert (for_red > 0).nonzero()[0].tolist() == [0, 0, 1, 1]
    assert (for_red > 0).nonzero()[1].tolist() == [6, 7, 6, 7]
    assert set((for_blue > 0).nonzero()[1]) == {0}
    nothing = grad_cam(task, 0 * pixels, np.array([0, 1]))
    assert not nothing.any()


def test_maps_inside_of_a_backbone_that_gives_vectors():
    base = tiny_image_backbone()
    vector = keras.layers.GlobalAveragePooling2D(keepdims=True)(base.output)
    backbone = keras.Model(base.inputs, keras.layers.Flatten()(vector))
    inside = ImageTask(backbone, None, "classification", ("a", "b"), "backbone", size=(32, 32))
    outside = ImageTask(base, None, "classification", ("a", "b"), "mean", size=(32, 32))
    outside.head.set_weights(inside.head.get_weights())
    found, expected = (grad_cam(task, PIXELS, CHOSEN) for task in (inside, outside))
    assert found.max() == 1
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_tokens_of_a_transformer_stand_in_a_square(pooling):
    """Behind the last block the class token alone counts, and the gradient of others is 0."""
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    backbone = keras_hub.models.ViTBackbone(image_shape=(32, 32, 3), patch_size=(8, 8), **sizes)
    task = ImageTask(backbone, None, "classification", ("a", "b"), pooling, size=(32, 32))
    found = grad_cam(task, PIXELS, CHOSEN)
    assert found.shape == (3, 4, 4)
    assert found.max() == pytest.approx(1)
    assert 0 < (found > 0).mean() < 1
    # For the other class other places speak.
    assert not np.allclose(found, grad_cam(task, PIXELS, 1 - CHOSEN))


class Vectors(keras.Model):
    def __init__(self):
        super().__init__()
        self.flat = keras.layers.Flatten()

    def call(self, x):
        return self.flat(x)


def test_without_maps_the_reason_is_said():
    inputs = keras.Input((32, 32, 3))
    tokens = keras.Model(inputs, keras.layers.Reshape((-1, 3))(inputs))
    for backbone, pooling, reason in (
        (tokens, "mean", "tokens are no square|has no blocks that can be seen"),
        (Vectors(), "backbone", "Vectors gives vectors, and has no maps inside"),
    ):
        task = ImageTask(backbone, None, "classification", ("a", "b"), pooling, size=(32, 32))
        with pytest.raises(NotDrawn, match=reason):
            grad_cam(task, PIXELS, CHOSEN)
    task = tiny_image_task(size=(4, 4))
    with pytest.raises(NotDrawn, match="a single place: pictures of 4 x 4 pixels are small for it"):
        grad_cam(task, PIXELS[:, :4, :4], CHOSEN)
