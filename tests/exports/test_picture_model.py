"""A served model of pictures: its signatures, its proof, and its resizing."""

import dataclasses
import io

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from PIL import Image

from tests.pictures import folder_of_pictures, picture
from tests.tiny_pictures import tiny_image_task
from tf_finetune.data.pictures import decode as decoding
from tf_finetune.data.pictures.decode import decode, opened, resize
from tf_finetune.data.pictures.store import Look
from tf_finetune.errors import ExportError, UserError
from tf_finetune.exports import picture_model, pixels
from tf_finetune.exports.load import load_model
from tf_finetune.exports.picture_model import export_pictures as export
from tf_finetune.exports.pixels import decoded, resized
from tf_finetune.exports.served import ExportedPictures
from tf_finetune.report import export_section
from tf_finetune.results.proofs import picture_examples

PIXELS = np.stack([np.asarray(picture(i, 0, (32, 32))) for i in range(4)])


@pytest.fixture(scope="module")
def task():
    return tiny_image_task()


@pytest.fixture(scope="module")
def exported(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return folder, export(task, folder, PIXELS)


def test_what_is_served_equals_the_model(exported, task, tmp_path):
    folder, info = exported
    assert info.max_difference <= 1e-5
    assert info.texts == 4 + 24 + 4 + 5
    assert info.variables_bytes < 1.1 * info.weights_bytes + 20_000
    served = load_model(folder)
    assert isinstance(served, ExportedPictures)
    assert (served.kind, served.class_names) == ("classification", ("circle", "square"))
    np.testing.assert_allclose(served.predict(list(PIXELS)), task.predict(PIXELS), atol=1e-5)
    # Other sizes are resized inside; the sizes of a list may differ.
    paths = sorted(folder_of_pictures(tmp_path, count=3, size=(90, 61)).rglob("*.png"))
    mixed = [*paths, paths[0].read_bytes(), np.asarray(Image.open(paths[1]))]
    outputs = served.predict(mixed)
    np.testing.assert_allclose(outputs[6], outputs[0], atol=1e-5)
    np.testing.assert_allclose(outputs[7], outputs[1], atol=1e-5)
    np.testing.assert_allclose(outputs, task.predict(mixed), atol=0.02)


def test_signatures(exported):
    import tensorflow as tf

    signatures = tf.saved_model.load(str(exported[1].path)).signatures
    content = tf.constant([_bytes(picture(0, 0), "JPEG"), _bytes(picture(1, 0), "PNG")])
    answer = signatures["serving_default"](image_bytes=content)
    assert answer["probabilities"].shape == (2, 2)
    assert answer["class_names"].numpy().tolist() == [[b"circle", b"square"]] * 2
    best = answer["probabilities"].numpy().argmax(axis=1)
    assert answer["label"].numpy().tolist() == [[b"circle", b"square"][i] for i in best]
    pixels = tf.zeros((3, 7, 200, 3), tf.uint8)
    assert signatures["serving_pixels"](pixels=pixels)["label"].shape == (3,)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_other_tasks(kind, tmp_path):
    names = ("a", "b") if kind == "multi_label" else ("stars",)
    task = tiny_image_task(kind, names, target_mean=1000.0, target_std=200.0)
    export(task, tmp_path, PIXELS)
    found = load_model(tmp_path).predict(list(PIXELS))
    np.testing.assert_allclose(found, task.predict(PIXELS), rtol=1e-5)


def test_a_model_that_serves_otherwise_is_not_exported(task, tmp_path, monkeypatch):
    scale = iter([1.0, 1.0, 1.5])  # files, the first pixels, the rest: as written
    true = resized
    monkeypatch.setattr(picture_model, "resized", lambda x, look: true(x, look) * next(scale, 1.5))
    with pytest.raises(ExportError, match=r"differs from the model by .* on the picture"):
        export(task, tmp_path, PIXELS)
    assert not list((tmp_path / "saved_model").iterdir())


def test_what_cannot_be_served_is_named(exported, tmp_path):
    served = load_model(exported[0])
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(UserError, match=r"a\.png.*cannot be read"):
        served.predict([tmp_path / "a.png"])
    with pytest.raises(UserError, match=r"b\.png.*cannot be read"):
        served.predict([tmp_path / "b.png"])


@pytest.mark.parametrize("how", ["crop", "squash", "pad"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_pictures_are_resized_as_for_training(how, interpolation):
    look = Look(size=(32, 40), interpolation=interpolation, how=how)
    for seed, size in enumerate([(32, 40), (40, 32), (100, 70), (37, 211), (9, 8), (640, 480)]):
        image = picture(seed, seed, size)
        expected = resize(image, look.size, interpolation, how).astype(int)
        found = resized(np.asarray(image)[np.newaxis], look)[0].numpy()
        difference = np.abs(found - expected)
        assert np.mean(difference > 1) < 0.02
        assert difference.max() <= 16  # of 255, where overshoots are cut off


def test_files_are_decoded_as_for_training():
    noisy = np.random.default_rng(0).integers(0, 256, (33, 47, 4), dtype=np.uint8)
    image = Image.fromarray(noisy)
    over_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    found = decoded(_bytes(image, "PNG")).numpy().astype(int)
    assert np.abs(found - np.asarray(over_white.convert("RGB"))).max() <= 1
    for kind in ("PNG", "BMP", "JPEG"):
        content = _bytes(image.convert("RGB"), kind)
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        np.testing.assert_array_equal(decoded(content), expected)


def test_it_is_judged_by_the_files_of_the_test_split(task, tmp_path):
    names = ["0.png", "1.jpg", "2.tiff", "3.png", "4.png"]
    for i, name in enumerate(names):
        picture(i, 0, (48, 40)).save(tmp_path / name)
    paths = [str(tmp_path / name) for name in names]
    outputs = task.predict(paths)
    labels = outputs.argmax(axis=1)
    labels[3] = 1 - labels[3]  # one mistake
    rows = np.arange(5)
    splits = {"train": rows[:0], "test": rows[1:]}
    examples = picture_examples(
        task.kind, task.predict, pa.chunked_array([paths]), splits, labels[1:], outputs[1:]
    )
    info = export(task, tmp_path / "export", PIXELS, examples)
    assert info.facts == {
        "not_decoded": 1,
        "figure": "accuracy",
        "value": pytest.approx(2 / 3),
        "model": pytest.approx(2 / 3),
    }
    told = export_section.on_test(dataclasses.asdict(info))
    assert told == "66.7% (the model 66.7%, both without 1 files that TensorFlow does not decode)"


NOISY = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 47, 4), dtype=np.uint8))
COLOUR, GREY = NOISY.convert("RGB"), NOISY.convert("L")
WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (30, 20), dtype=np.uint16))
FILES = {
    "1 bit": (GREY.convert("1"), "PNG", {}),
    **{f"{n} colours": (COLOUR.quantize(n), "PNG", {}) for n in (2, 4, 16, 200)},
    **{
        f"{n} colours, one transparent": (COLOUR.quantize(n), "PNG", {"transparency": 0})
        for n in (2, 4, 16, 200)
    },
    "grey and alpha": (NOISY.convert("LA"), "PNG", {}),
    "grey, one transparent": (GREY, "PNG", {"transparency": 5}),
    "16 bits": (WIDE, "PNG", {}),
    **{f"BMP of {n} colours": (COLOUR.quantize(n), "BMP", {}) for n in (2, 16, 200)},
    "grey BMP": (GREY, "BMP", {}),
    "BMP of 32 bits": (NOISY, "BMP", {}),
    "GIF": (COLOUR.quantize(16), "GIF", {}),
    "CMYK": (COLOUR.convert("CMYK"), "JPEG", {}),
    "grey JPEG": (GREY, "JPEG", {}),
    "progressive": (COLOUR, "JPEG", {"progressive": True}),
}


@pytest.mark.parametrize(("image", "kind", "options"), FILES.values(), ids=FILES)
def test_every_kind_of_file_is_decoded_as_for_training(image, kind, options):
    content = _bytes(image, kind, **options)
    expected = np.asarray(decode(opened(content))).astype(int)
    found = decoded(content).numpy().astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


def test_an_export_that_would_see_other_pictures_is_not_made(tmp_path, monkeypatch):
    def wrong(content):
        return tf.io.decode_image(content, channels=3, expand_animations=False)

    monkeypatch.setattr(picture_model, "decoded", wrong)
    with pytest.raises(ExportError, match="would see another picture in a PNG of mode RGBA than"):
        export(tiny_image_task(), tmp_path, np.zeros((0, 32, 32, 3)))
    assert not any(tmp_path.iterdir())


def _bytes(image, kind, **options):
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def test_headers_that_ask_for_gigabytes_are_refused():
    bomb = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR"
    bomb += (20_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0]) + bytes(50)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        decoded(tf.constant(bomb))


def test_a_border_fills_no_memory_in_a_graph_either(monkeypatch):
    monkeypatch.setattr(pixels, "MOST_PADDED", 2**14)
    monkeypatch.setattr(decoding, "MOST_PADDED", 2**14)
    picture = np.random.default_rng(0).integers(0, 256, (4, 2000, 3), dtype=np.uint8)
    look = Look(size=(32, 32), interpolation="bilinear", how="pad")
    found = resized(picture[None], look)[0].numpy()
    expected = resize(Image.fromarray(picture), (32, 32), "bilinear", "pad")
    np.testing.assert_allclose(found, expected, atol=3)
    assert found.max() > 10
