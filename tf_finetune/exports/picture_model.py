"""A SavedModel that takes pictures, proved equal to the model in a fresh process."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from tf_finetune.data.pictures.decode import decode, opened
from tf_finetune.errors import ExportError
from tf_finetune.exports import saved_model
from tf_finetune.exports.parity import (
    TIMED,
    largest_difference,
    result_name,
    run_fresh,
)
from tf_finetune.exports.picture_graphs import Examples
from tf_finetune.exports.pixels import decoded, resized
from tf_finetune.exports.saved_model import ExportInfo
from tf_finetune.model.image_task import ImageTask

INPUTS = ("image_bytes", saved_model.PIXELS_INPUT)
# (height, width) that a server is sent sooner or later.
_HARD_SIZES = ((1, 1), (8, 300), (300, 8), (13, 17), (600, 450))
_CHILD = """
import sys, time
import tensorflow as tf
model, folder, result, count, timed = sys.argv[1:]
served = tf.saved_model.load(model).signatures
files = tf.io.parse_tensor(tf.io.read_file(folder + "/files"), tf.string)
found = [served["serving_default"](image_bytes=files)[result]]
for i in range(int(count)):
    pixels = tf.io.parse_tensor(tf.io.read_file(f"{folder}/pixels-{i}"), tf.uint8)
    found.append(served["serving_pixels"](pixels=pixels)[result])
seconds = []
for i in range(int(timed)):
    began = time.perf_counter()
    served["serving_default"](image_bytes=files[i : i + 1])[result].numpy()
    seconds.append(time.perf_counter() - began)
tf.io.write_file(folder + "/outputs", tf.io.serialize_tensor(tf.concat(found, 0)))
tf.io.write_file(folder + "/seconds", tf.io.serialize_tensor(tf.constant(seconds, tf.float64)))
"""


# What it gives for the files of the test split, as they were before they were resized.
_JUDGE = """
import json, sys
import numpy as np
import tensorflow as tf
model, folder, result = sys.argv[1:]
serve = tf.saved_model.load(model).signatures["serving_default"]
paths, found = json.load(open(folder + "/paths.json")), {}
def judge(numbers):
    files = tf.stack([tf.io.read_file(paths[i]) for i in numbers])
    try:
        outputs = serve(image_bytes=files)[result].numpy()
    except tf.errors.InvalidArgumentError:
        # One is of a format that TensorFlow does not decode.
        for i in numbers if len(numbers) > 1 else ():
            judge([i])
        return
    for i, output in zip(numbers, outputs):
        found[str(i)] = output
for start in range(0, len(paths), 32):
    judge(range(start, min(start + 32, len(paths))))
np.savez(folder + "/found.npz", **found)
"""


def export_pictures(
    model: ImageTask,
    folder: str | os.PathLike,
    pixels: np.ndarray,
    examples: Examples | None = None,
) -> ExportInfo:
    """Writes `folder/saved_model/1`: pictures in, class names and probabilities out.

    `serving_default` takes `image_bytes`, strings (n,), each a JPEG, PNG, GIF or BMP file;
    `serving_pixels` takes `pixels`, uint8 (n, height, width, 3) of any size. Both resize and
    scale inside, and give what the signature of `saved_model.export` gives.

    The folder gets its name only once a fresh process, which imports TensorFlow alone, has
    given the model's own outputs for these pictures, by both signatures, and those of the
    model behind the same resizing for pictures of hard shapes and formats.

    Args:
        model: that computes in float32.
        folder: usually `WORKDIR/export`.
        pixels: uint8 (n, height, width, 3), real pictures at the size of the model's input.
        examples: whose test files it is judged by.

    Raises:
        UserError: as `saved_model.export`.
        ExportError: as `saved_model.export`.
    """
    hard = _hard_files()
    _check_decoding(hard)
    files = [_file(Image.fromarray(picture), "PNG") for picture in pixels] + hard
    batches = [*([pixels] if len(pixels) else []), *_hard_pixels()]
    return saved_model.written_and_proved(
        model,
        folder,
        INPUTS,
        write=lambda path: _write(model, path),
        compare=lambda path: _compare(model, path, files, batches, len(pixels)),
        judge=lambda path: _judged(model, path, examples) if examples else {},
    )


def _write(model: ImageTask, path: Path) -> None:
    """Nothing is tracked: see `saved_model._write`."""
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    pixels = tf.TensorSpec([None, None, None, 3], tf.uint8, name=INPUTS[1])
    for name, function, spec in (
        (saved_model.SIGNATURE, _of_files, tf.TensorSpec([None], tf.string, name=INPUTS[0])),
        (saved_model.PIXELS, _of_pixels, pixels),
    ):
        serve = tf.function(function(model), input_signature=[spec])
        archive.add_endpoint(name, serve)
    archive.write_out(str(path), verbose=False)


def _judged(model: ImageTask, path: Path, examples: Examples) -> dict[str, Any]:
    """The figure on the test split's files, and the model's own on the same rows."""
    if not len(examples.test):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "paths.json").write_text(json.dumps(examples.paths(examples.test)))
        run_fresh("SavedModel", _JUDGE, str(path), folder, result_name(model.kind))
        with np.load(f"{folder}/found.npz") as arrays:
            found = {int(i): arrays[i].reshape(-1) for i in arrays}
    which = np.isin(np.arange(len(examples.test)), [*found])
    facts = {"not_decoded": int((~which).sum())} if len(found) < len(which) else {}
    if not found:
        return facts
    outputs = np.stack([found[i] for i in sorted(found)])
    outputs = outputs.reshape(-1, *examples.outputs.shape[1:])
    return facts | examples.judged(outputs, which)


def _of_files(model: ImageTask) -> Callable[[Any], dict[str, Any]]:
    import tensorflow as tf

    spec = tf.TensorSpec([*model.look.size, 3], tf.float32)

    def serve(image_bytes: Any) -> dict[str, Any]:
        def one(content: Any) -> Any:
            return resized(decoded(content)[tf.newaxis], model.look)[0]

        pixels = tf.map_fn(one, image_bytes, fn_output_signature=spec)
        return saved_model.answers(model, model(pixels, training=False))

    return serve


def _of_pixels(model: ImageTask) -> Callable[[Any], dict[str, Any]]:
    def serve(pixels: Any) -> dict[str, Any]:
        return saved_model.answers(model, model(resized(pixels, model.look), training=False))

    return serve


def _file(image: Image.Image, kind: str) -> bytes:
    written = io.BytesIO()
    image.save(written, kind)
    return written.getvalue()


def _hard_pixels() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (1, *shape, 3), dtype=np.uint8) for shape in _HARD_SIZES]


def _lying(image: Image.Image, orientation: int) -> bytes:
    """A JPEG whose EXIF data say how it is to be turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    return out.getvalue()


def _hard_files() -> list[bytes]:
    """Grey, transparent, of 1 to 16 bits, of palettes, of each format, and lying on a side."""
    random = np.random.default_rng(1)
    image = Image.fromarray(random.integers(0, 256, (40, 60, 4), dtype=np.uint8))
    colour, grey = image.convert("RGB"), image.convert("L")
    wide = Image.fromarray(random.integers(0, 2**16, (30, 20), dtype=np.uint16))
    few = [colour.quantize(colours) for colours in (2, 4, 16, 200)]
    made = [_file(x, "PNG") for x in (image, colour, grey, wide, grey.convert("1"), *few)]
    made += [_file(x, "JPEG") for x in (colour, grey, colour.convert("CMYK"))]
    made += [_file(x, "BMP") for x in (colour, grey, few[-1])]
    made += [_lying(colour, orientation) for orientation in range(1, 9)]
    return [*made, _file(colour, "GIF")]


def _check_decoding(files: Sequence[bytes]) -> None:
    """Raises `ExportError` where TensorFlow sees another picture in a file than training does."""
    for content in files:
        image = opened(content)
        kind = f"{image.format} of mode {image.mode}"
        ours, theirs = (
            np.asarray(pixels).astype(int) for pixels in (decode(image), decoded(content))
        )
        if ours.shape != theirs.shape or np.abs(ours - theirs).max() > 1:
            raise ExportError(
                f"The SavedModel would see another picture in a {kind} than training."
            )


def _compare(
    model: ImageTask, path: Path, files: Sequence[bytes], batches: list[np.ndarray], real: int
) -> tuple[int, float, float]:
    """How many were compared, the largest difference from the model, and the time of a file."""
    import tensorflow as tf

    result = result_name(model.kind)
    width = len(model.class_names)
    parts = [_of_files(model)(tf.constant(files))] + [_of_pixels(model)(x) for x in batches]
    expected = np.concatenate([part[result].numpy().reshape(-1, width) for part in parts])
    if real:  # what is at the model's size already is not resized at all
        own = np.asarray(model(batches[0], training=False))
        expected[:real] = expected[len(files) : len(files) + real] = own
    with tempfile.TemporaryDirectory() as folder:
        tf.io.write_file(f"{folder}/files", tf.io.serialize_tensor(tf.constant(files)))
        for i, pixels in enumerate(batches):
            tf.io.write_file(f"{folder}/pixels-{i}", tf.io.serialize_tensor(tf.constant(pixels)))
        counts = str(len(batches)), str(min(TIMED, len(files)))
        run_fresh("SavedModel", _CHILD, str(path), folder, result, *counts)
        found = tf.io.parse_tensor(tf.io.read_file(f"{folder}/outputs"), tf.float32).numpy()
        seconds = tf.io.parse_tensor(tf.io.read_file(f"{folder}/seconds"), tf.float64).numpy()
    numbers = [f"{i}" for i in range(len(expected))]
    found = found.reshape(expected.shape)
    difference = largest_difference("SavedModel", expected, found, [numbers], word="picture")
    return len(expected), difference, 1e3 * float(np.median(seconds))
