"""CutMix in the train step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.pictures import arrays_of_pictures
from tests.tiny_pictures import tiny_image_task
from tf_finetune.fit.cutmix import Patches, draw_patches
from tf_finetune.fit.steps import Step, step_of, training_by
from tf_finetune.fit_settings import FitConfig
from tf_finetune.model import heads

PIXELS, LABELS = arrays_of_pictures(2, 4, (32, 32))
WEIGHTS = np.linspace(0.5, 2.0, 8).astype("float32")


def test_rectangles_lie_inside_and_shares_are_those_of_their_areas():
    generator, pictures = keras.random.SeedGenerator(0), tf.zeros((6, 20, 30, 3), tf.uint8)

    @tf.function
    def draws():
        found = draw_patches(1.0, pictures, generator)
        return found.share, found.box, found.order

    drawn = [tuple(one.numpy() for one in draws()) for _ in range(1000)]
    shares = np.array([share for share, _, _ in drawn])
    boxes = np.array([box for _, box, _ in drawn])
    top, bottom, left, right = boxes.T
    assert boxes.min() == 0
    assert (bottom.max(), right.max()) == (20, 30)
    assert np.all(top <= bottom)
    np.testing.assert_allclose(shares, 1 - (bottom - top) * (right - left) / 600, atol=1e-6)
    # Of those that no border cuts the area is as the paper draws it: a square root of a side.
    whole = (top > 0) & (left > 0) & (bottom < 20) & (right < 30)
    ratios = (right - left)[whole] / 30 - (bottom - top)[whole] / 20
    assert np.abs(ratios).max() <= 2 / 20
    assert 0.65 < shares.mean() < 0.8  # half would be covered if nothing were cut off
    assert all(sorted(order) == list(range(6)) for _, _, order in drawn)


def test_pictures_have_a_rectangle_of_another():
    patches = Patches(tf.constant(0.5), tf.constant([1, 2, 0]), tf.constant([0, 2, 1, 4]))
    pictures = np.arange(3 * 3 * 4 * 3, dtype=np.uint8).reshape(3, 3, 4, 3)
    found = patches.rows(tf.constant(pictures)).numpy()
    assert found.dtype == np.uint8
    expected = pictures.copy()
    expected[:, 0:2, 1:4] = pictures[[1, 2, 0], 0:2, 1:4]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_step_equals_one_by_hand(kind):
    names = ("value",) if kind == "regression" else ("a", "b")
    task, y = tiny_image_task(kind, names, norm="group"), LABELS.astype("int32")
    y = y[:, None].astype("float32") if kind == "regression" else y
    model, loss = task.network, heads.loss(kind)
    patches = draw_patches(1.0, tf.constant(PIXELS), keras.random.SeedGenerator(3))
    share, order = float(patches.share), patches.order.numpy()
    assert 0.05 < share < 0.95
    with tf.GradientTape() as tape:
        outputs = model(patches.rows(tf.constant(PIXELS)), training=True)
        expected = share * loss(y, outputs, WEIGHTS)
        expected += (1 - share) * loss(y[order], outputs, WEIGHTS[order])
    gradients = tape.gradient(expected, model.trainable_weights)
    after = [
        v.numpy() - 0.1 * g.numpy() for v, g in zip(model.trainable_weights, gradients, strict=True)
    ]
    model.compile(keras.optimizers.SGD(0.1), loss)
    with training_by(model, Step(cutmix=1.0, seed=3)):
        found = model.train_on_batch(PIXELS, y, sample_weight=WEIGHTS)
    assert found == pytest.approx(float(expected), rel=1e-5)
    for variable, value in zip(model.trainable_weights, after, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, 1e-5, 1e-6, err_msg=variable.path)


def run(**step):
    model = tiny_image_task(norm="group").network
    model.compile(keras.optimizers.SGD(0.1), heads.loss("classification"))
    with training_by(model, Step(**step)):
        model.fit(PIXELS, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return np.concatenate([v.numpy().ravel() for v in model.trainable_weights])


def test_the_seed_decides_and_parts_have_rectangles_of_their_own():
    whole = run(cutmix=1.0)
    np.testing.assert_array_equal(run(cutmix=1.0), whole)
    assert np.any(run(cutmix=1.0, seed=1) != whole)
    parts = run(cutmix=1.0, micro_batch=2)
    np.testing.assert_array_equal(run(cutmix=1.0, micro_batch=2), parts)
    assert np.any(parts != whole)
    assert np.any(run() != whole)


def test_a_head_that_takes_features_goes_without():
    task, fit = tiny_image_task(), FitConfig(cutmix=0.7)
    assert step_of(task, task.network, fit).cutmix == 0.7
    assert step_of(task, task.head, fit).cutmix == 0
    assert step_of(task, task.network, fit).settings == "cutmix is 0.7"
