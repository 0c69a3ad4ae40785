"""LiteRT and ONNX files of models of pictures: pixels in, probabilities, scores or values out."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.errors import UserError
from tf_finetune.exports import graphs
from tf_finetune.exports.parity import (
    Proof,
    largest_difference,
    read_found,
    result_name,
    run_fresh,
)
from tf_finetune.exports.saved_model import PIXELS_INPUT
from tf_finetune.model.image_task import ImageTask

CALIBRATED_BY = 128
# Convolutions are summed up in another order there, and all test pictures are compared.
TOLERANCE = 1e-4
# Of weights in 8 bits; what they cost is told by the figure on the test split.
_ANY = 1e30
_BATCH = 64
_CALIBRATING = "calibrating.npy"
_STAND_INS = 16
_DYNAMIC = "converter.optimizations = [tf.lite.Optimize.DEFAULT]"
# What LiteRT cannot do in int8 it may do in float32, which `RUN_INT8` tells.
_INT8 = f"""
import numpy as np
{_DYNAMIC}
pictures = np.load(sys.argv[1] + "/{_CALIBRATING}")
converter.representative_dataset = lambda: ([one[None].astype("float32")] for one in pictures)
converter.target_spec.supported_ops.insert(0, tf.lite.OpsSet.TFLITE_BUILTINS_INT8)
converter.inference_input_type = tf.uint8
"""
_RUN_INT8 = f"""{graphs.RUN_LITERT}
given, = runner.get_input_details().values()
assert given["quantization"] == (1.0, 0), given  # a pixel is its own number
whole = Interpreter(path + "/{graphs.LITERT_FILE}")
floats = [one for one in whole.get_tensor_details() if one["dtype"] == np.float32]
facts["integers_alone"] = len(floats) == len(whole.get_output_details())
"""
# As `parity._CHILD`; pictures come one by one through its standard input.
_CHILD = """
import json, math, sys, time
import numpy as np
path, folder, result, *shape = sys.argv[1:]
shape, facts = (1, *map(int, shape)), {{}}

def inputs(pixels):
    return {{"{name}": pixels}}

{code}
found, seconds = [], []
while content := sys.stdin.buffer.read(math.prod(shape)):
    pixels = np.frombuffer(content, np.uint8).reshape(shape)
    began = time.perf_counter()
    found.append(np.array(run(pixels)).reshape(-1))
    seconds.append(time.perf_counter() - began)
np.savez(folder + "/found.npz", outputs=np.stack(found), seconds=seconds)
with open(folder + "/facts.json", "w") as file:
    json.dump(facts, file)
"""


@dataclasses.dataclass(slots=True, kw_only=True)
class Examples:
    """Pictures of a run, by which its exports are made and judged.

    Attributes:
        pixels: the pictures of some rows, uint8 (n, height, width, 3) at the size of the
            model's input.
        paths: the files of some rows.
        train: rows to calibrate by.
        test: rows of the test split.
        outputs: the model's own for `test`, (n, k).
        score: the figure that counts: its name, and its value for outputs for those of `test`
            that are true, or for all.
    """

    pixels: Callable[[np.ndarray], np.ndarray]
    paths: Callable[[np.ndarray], list[str]]
    train: np.ndarray
    test: np.ndarray
    outputs: np.ndarray
    score: Callable[..., tuple[str, float]]

    def judged(self, outputs: np.ndarray, which: Any = slice(None)) -> dict[str, Any]:
        """The figure of an export's outputs, and the model's own on the same test rows."""
        figure, value = self.score(outputs, which)
        return {
            "figure": figure,
            "value": value,
            "model": self.score(self.outputs[which], which)[1],
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """How a file is written, and what runs it.

    Attributes:
        name: in a message.
        convert: code of `graphs`.
        run: code of `graphs`.
        tolerance: of the comparison.
        calibrated: whether the code reads training pictures.
    """

    name: str
    convert: str
    run: str
    tolerance: float = TOLERANCE
    calibrated: bool = False


FORMS = {
    "litert": _Form(
        name="LiteRT file",
        convert=graphs.TO_LITERT.format(quantise=""),
        run=graphs.RUN_LITERT,
    ),
    "litert_dynamic": _Form(
        name="LiteRT file with weights in 8 bits",
        convert=graphs.TO_LITERT.format(quantise=_DYNAMIC),
        run=graphs.RUN_LITERT,
        tolerance=_ANY,
    ),
    "litert_int8": _Form(
        name="LiteRT file in int8",
        convert=graphs.TO_LITERT.format(quantise=_INT8),
        run=_RUN_INT8,
        tolerance=_ANY,
        calibrated=True,
    ),
    "onnx": _Form(name="ONNX file", convert=graphs.TO_ONNX, run=graphs.RUN_ONNX),
}
"""By the name in `config.results.formats`."""


def write_and_prove(model: ImageTask, path: Path, examples: Examples, name: str) -> Proof:
    """Writes `model.tflite` or `model.onnx`, and runs it on all test pictures.

    The file takes `pixels`, uint8 (n, height, width, 3) of the size of the model's input,
    and gives `probabilities` (n, k), or for regression `value` (n, 1), in float32.

    Args:
        model: that computes in float32.
        path: an empty folder.
        examples: of the run; where it has no test rows, random pixels are compared.
        name: of `FORMS`.

    Raises:
        UserError: if there is nothing to calibrate by.
        ExportError: if the model has an operation that the format lacks, or its outputs
            are not finite or, in float32, differ by more than 1e-4.
    """
    form = FORMS[name]
    _write(model, path, examples, form)
    if len(examples.test):
        pictures, expected = _of_rows(examples), examples.outputs
    else:
        noise = np.random.default_rng(0).integers(
            0, 256, (_STAND_INS, *model.look.size, 3), dtype=np.uint8
        )
        pictures, expected = iter([noise]), np.asarray(model(noise, training=False))
    found, milliseconds, facts = _run_elsewhere(model, path, pictures, form)
    numbers = [[str(i) for i in range(len(expected))]]
    found = found.reshape(expected.shape)
    difference = largest_difference(
        form.name, expected, found, numbers, form.tolerance, word="picture"
    )
    if len(examples.test):
        facts |= examples.judged(found)
    return Proof(
        inputs=[PIXELS_INPUT],
        compared=len(expected),
        difference=difference,
        milliseconds=milliseconds,
        facts=facts,
        beside=dataclasses.asdict(model.look),
    )


def _write(model: ImageTask, path: Path, examples: Examples, form: _Form) -> None:
    import tensorflow as tf

    # To become integers, what goes in has to be a number with a scale.
    kind = tf.float32 if form.calibrated else tf.uint8
    signature = {PIXELS_INPUT: tf.TensorSpec([None, *model.look.size, 3], kind)}
    with tempfile.TemporaryDirectory() as folder:
        graphs.write_network(model, folder, signature)
        if form.calibrated:
            np.save(f"{folder}/{_CALIBRATING}", _calibrating(examples))
        run_fresh(form.name, form.convert, folder, str(path))


def _calibrating(examples: Examples) -> np.ndarray:
    """Training pictures, the same each time, from all parts of the rows."""
    rows = examples.train
    if not len(rows):
        raise UserError(
            'config.results.formats names "litert_int8", which is calibrated on training '
            "pictures, but the run's data are gone; leave it out, or put its cache folder back."
        )
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), CALIBRATED_BY)).astype(int)
    pixels = examples.pixels(rows[chosen])
    # So that the range of what goes in is all that pixels may be, and a step of it is 1.
    pixels[0, 0, 0, :2] = 0, 255
    return pixels


def _of_rows(examples: Examples) -> Iterator[np.ndarray]:
    for start in range(0, len(examples.test), _BATCH):
        yield examples.pixels(examples.test[start : start + _BATCH])


def _run_elsewhere(
    model: ImageTask, path: Path, pictures: Iterator[np.ndarray], form: _Form
) -> tuple[np.ndarray, float, dict[str, Any]]:
    """Outputs for pictures one at a time, the median milliseconds of one, and facts."""
    code = _CHILD.format(name=PIXELS_INPUT, code=form.run)
    shape = map(str, (*model.look.size, 3))
    with tempfile.TemporaryDirectory() as folder:
        feed = (batch.tobytes() for batch in pictures)
        run_fresh(form.name, code, str(path), folder, result_name(model.kind), *shape, feed=feed)
        return read_found(folder)
