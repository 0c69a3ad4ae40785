import io

import keras
import numpy as np
import pytest
from PIL import Image

from tests.pictures import folder_of_pictures, picture
from tests.tiny_pictures import tiny_image_backbone, tiny_image_task
from tf_finetune.data.pictures.store import Look
from tf_finetune.errors import UserError
from tf_finetune.model.image_task import ImageTask

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("kind", "names"),
    [("classification", "abc"), ("multi_label", "abc"), ("regression", ("stars",))],
)
def test_predict_equals_calling_and_survives_a_file(kind, names, tmp_path):
    task = tiny_image_task(kind, tuple(names), target_mean=3.0, target_std=2.0, how="pad")
    outputs = task.predict(PIXELS)
    assert outputs.shape == (5, len(names))
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, task(PIXELS, training=False), atol=1e-6)
    task.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again, ImageTask)
    np.testing.assert_array_equal(again.predict(PIXELS), outputs)
    assert (again.look, again.class_names) == (task.look, tuple(names))
    np.testing.assert_array_equal(task.copied().predict(PIXELS), outputs)


def test_views_share_the_task_s_variables():
    task = tiny_image_task()
    logits = task.network(PIXELS)
    np.testing.assert_allclose(task.head(task.encoder(PIXELS)), logits, atol=1e-6)
    np.testing.assert_allclose(keras.ops.softmax(logits), task.scorer(PIXELS), atol=1e-6)
    assert {id(v) for v in task.network.weights} <= {id(v) for v in task.weights}


def test_files_their_bytes_and_their_pixels_are_the_same(tmp_path):
    task = tiny_image_task()
    paths = sorted(folder_of_pictures(tmp_path, count=3, size=(60, 41)).rglob("*.png"))
    outputs = task.predict(paths)
    np.testing.assert_array_equal(task.predict([str(path) for path in paths]), outputs)
    np.testing.assert_array_equal(task.predict([path.read_bytes() for path in paths]), outputs)
    pixels = [np.asarray(Image.open(path)) for path in paths]
    np.testing.assert_array_equal(task.predict(pixels), outputs)
    np.testing.assert_array_equal(task.predict(np.stack(pixels)), outputs)
    look = Look(size=(32, 32))
    seen = np.stack([look.of(str(path)) for path in paths])
    np.testing.assert_allclose(task.predict(seen), outputs, atol=1e-6)


def test_pictures_of_different_sizes_come_in_one_list():
    task = tiny_image_task()
    pictures = [np.asarray(picture(i, 0, size)) for i, size in enumerate([(20, 90), (64, 64)])]
    together = task.predict(pictures)
    np.testing.assert_allclose(together[1], task.predict(pictures[1:])[0], atol=1e-6)
    assert task.predict([]).shape == (0, 2)


def test_what_is_no_picture_is_named(tmp_path):
    task = tiny_image_task()
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(UserError, match=r"a\.png.*not a picture"):
        task.predict([tmp_path / "a.png"])
    with pytest.raises(UserError, match=r"b\.png.*missing picture"):
        task.predict([str(tmp_path / "b.png")])
    whole = io.BytesIO()
    picture(0, 0, (200, 200)).save(whole, "PNG")
    with pytest.raises(UserError, match="truncated picture"):
        task.predict([whole.getvalue()[:-100]])
    with pytest.raises(UserError, match=r"shape \(4, 4, 2\)"):
        task.predict([np.zeros((4, 4, 2), np.uint8)])


def test_pixels_are_scaled_inside_once():
    backbone = keras.Sequential([keras.Input((None, None, 3)), keras.layers.ReLU()])
    options = {"scale": (1, 2, 3), "offset": (0, 5, 0), "flip": True, "dropout": 0, "size": (2, 2)}
    task = ImageTask(backbone, None, "classification", ("a", "b"), **options)
    pixels = np.tile(np.array([10, 20, 30], np.uint8), (1, 2, 2, 1))
    np.testing.assert_allclose(task.encoder(pixels), [[30, 45, 30]])


@pytest.mark.parametrize(("pooling", "expected"), [("first", 0.0), ("mean", 1.5), ("max", 3.0)])
def test_tokens_are_pooled(pooling, expected):
    inputs = keras.Input((2, 2, 3))
    tokens = keras.layers.Reshape((4, 3))(inputs)
    task = ImageTask(
        keras.Model(inputs, tokens), None, "classification", ("a", "b"), pooling, size=(2, 2)
    )
    pixels = np.repeat(np.arange(4, dtype="uint8"), 3).reshape(1, 2, 2, 3)
    np.testing.assert_allclose(task.encoder(pixels), [[expected] * 3])


def test_maps_have_no_first_token():
    with pytest.raises(UserError, match='"first", but Functional gives maps; choose mean or max'):
        tiny_image_task(pooling="first")


def test_a_backbone_that_gives_vectors_is_taken_as_it_is():
    base = tiny_image_backbone()
    vector = keras.layers.GlobalMaxPooling2D()(base.output)
    task = ImageTask(
        keras.Model(base.input, vector), None, "classification", ("a", "b"), size=(32, 32)
    )
    expected = keras.ops.max(base(PIXELS.astype("float32")), axis=(1, 2))
    np.testing.assert_allclose(task.encoder(PIXELS), expected, rtol=1e-5, atol=1e-5)
