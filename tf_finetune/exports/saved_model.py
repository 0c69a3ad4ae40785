"""A SavedModel that takes strings, proved equal to the model in a fresh process."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.exports.folder import mark, place_of, placing, size
from tf_finetune.exports.parity import (
    TIMED,
    Exported,
    expected_outputs,
    largest_difference,
    result_name,
    run_fresh,
    with_hard_texts,
)

SIGNATURE = "serving_default"
# Of an export of pictures, beside `SIGNATURE`, and what it takes.
PIXELS, PIXELS_INPUT = "serving_pixels", "pixels"
INPUTS = ("text", "text_pair")
_GRAPH_BYTES = 16_000_000
_CHILD = """
import sys, time
import tensorflow as tf
import tensorflow_text
model, folder, result, timed = sys.argv[1:]
serve = tf.saved_model.load(model).signatures["serving_default"]
texts = tf.io.parse_tensor(tf.io.read_file(folder + "/texts"), tf.string)
run = lambda part: serve(**dict(zip(("text", "text_pair"), tf.unstack(part))))[result].numpy()
found = [run(part) for part in (texts[:, :1], texts[:, 1:])]
seconds = []
for i in range(int(timed)):
    began = time.perf_counter()
    run(texts[:, i : i + 1])
    seconds.append(time.perf_counter() - began)
tf.io.write_file(folder + "/outputs", tf.io.serialize_tensor(tf.concat(found, 0)))
tf.io.write_file(folder + "/seconds", tf.io.serialize_tensor(tf.constant(seconds, tf.float64)))
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExportInfo(Exported):
    """What was written.

    Attributes:
        variables_bytes: of the files under `variables/`.
        weights_bytes: of the model's weights in memory.
    """

    variables_bytes: int
    weights_bytes: int


def export(model: Any, folder: str | os.PathLike, columns: Sequence[Sequence[str]]) -> ExportInfo:
    """Writes `folder/saved_model/1`: strings in, class names and probabilities out.

    The signature `serving_default` takes `text`, strings (n,), and for pairs
    `text_pair`. It gives, for classification, `label` (n,), the most probable
    class; for classification and `multi_label`, `probabilities` (n, k) float32
    and `class_names` (n, k), the same in each row, so that TensorFlow Serving can
    answer row by row; for regression `value` (n,) float32.

    The folder gets its name only once a fresh process, which imports TensorFlow
    and TensorFlow Text alone, has given the model's own outputs for the texts and
    for `HARD_TEXTS`. A former export of ours is replaced.

    Args:
        model: a `TextTask` that computes in float32.
        folder: usually `WORKDIR/export`.
        columns: one list of real texts; for pairs two.

    Returns:
        The place, sizes and the largest difference.

    Raises:
        UserError: if the folder is not ours, cannot be written, or the disk is full.
        ExportError: if the outputs differ by more than 1e-5 (of a value above 1,
            by that share).
    """
    columns, inputs = with_hard_texts(columns), INPUTS[: len(columns)]
    return written_and_proved(
        model,
        folder,
        inputs,
        write=lambda path: _write(model, path, inputs),
        compare=lambda path: _compare(model, path, columns),
    )


def written_and_proved(
    model: Any,
    folder: str | os.PathLike,
    inputs: Sequence[str],
    *,
    write: Callable[[Path], None],
    compare: Callable[[Path], tuple[int, float, float]],
    judge: Callable[[Path], dict[str, Any]] = lambda path: {},
) -> ExportInfo:
    """Writes `folder/saved_model/1`, which gets its name once it has been compared.

    Args:
        model: of texts or pictures.
        folder: usually `WORKDIR/export`.
        inputs: that the SavedModel takes, by name.
        write: to an empty folder.
        compare: from that folder to how many examples were compared, the largest difference
            and the milliseconds of one.
        judge: from that folder to more facts.
    """
    weights = sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in model.variables)
    with placing(folder, int(1.1 * weights) + _GRAPH_BYTES) as path:
        write(path)
        compared, difference, milliseconds = compare(path)
        facts = judge(path)
        mark(
            path,
            kind=model.kind,
            class_names=list(model.class_names),
            inputs=inputs,
            max_difference=difference,
            **facts,
        )
    final = place_of(folder)
    return ExportInfo(
        path=final,
        bytes=size(final),
        variables_bytes=size(final / "variables"),
        weights_bytes=weights,
        texts=compared,
        max_difference=difference,
        milliseconds=milliseconds,
        facts=facts,
    )


def _write(model: Any, path: Path, inputs: Sequence[str]) -> None:
    """Writes the SavedModel.

    Only the tokenizer is tracked, for its lookup tables. The archive finds the
    variables in the traced function by itself. Tracking the model too, as is
    usual, lists each variable a second time as its Keras wrapper; the wrapper
    counts as an object with a value of its own, and so the file would hold every
    value twice.
    """
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    tokenizer = model.preprocessor.tokenizer
    # `track` wants to see it built; a tokenizer has no weights to build.
    tokenizer.built = True
    archive.track(tokenizer)
    signature = [tf.TensorSpec([None], tf.string, name=name) for name in inputs]
    archive.add_endpoint(SIGNATURE, tf.function(_serving(model), input_signature=signature))
    archive.write_out(str(path), verbose=False)


def _serving(model: Any) -> Any:
    import tensorflow as tf

    def serve(*texts: tf.Tensor) -> dict[str, tf.Tensor]:
        # TensorFlow Text ends some strings at a zero byte.
        clean = tuple(tf.strings.regex_replace(text, r"\x00", "") for text in texts)
        # By name: a positional pair would count as inputs and labels.
        ids = _trim(model.preprocessor(x=clean if len(clean) > 1 else clean[0]))
        outputs = tf.cast(model(ids, training=False), tf.float32)
        return answers(model, outputs)

    return serve


def answers(model: Any, outputs: Any) -> dict[str, Any]:
    """What `serving_default` gives for a model's outputs (n, k)."""
    import tensorflow as tf

    if model.kind == "regression":
        return {"value": outputs[:, 0]}
    names = tf.constant(model.class_names)
    made = {
        "probabilities": outputs,
        "class_names": tf.tile(names[tf.newaxis], [tf.shape(outputs)[0], 1]),
    }
    if model.kind == "classification":
        made["label"] = tf.gather(names, tf.argmax(outputs, axis=-1))
    return made


def _trim(ids: Any) -> Any:
    """Cuts padded ids to the longest text of the batch: short texts are served fast."""
    import tensorflow as tf

    mask = tf.cast(ids["padding_mask"], tf.int32)
    ends = tf.reduce_max(mask * tf.range(1, tf.shape(mask)[1] + 1), axis=1)
    length = tf.reduce_max(tf.concat([ends, [1]], axis=0))
    # As `encode` does: a token of padding that is typed in a text is one of the text.
    whole = tf.sequence_mask(ends, tf.shape(mask)[1], dtype=ids["padding_mask"].dtype)
    return {key: value[:, :length] for key, value in {**ids, "padding_mask": whole}.items()}


def _compare(model: Any, path: Path, columns: Sequence[Sequence[str]]) -> tuple[int, float, float]:
    expected = expected_outputs(model, columns)
    found, milliseconds = _run_elsewhere(path, columns, result_name(model.kind))
    found = found.reshape(expected.shape)
    difference = largest_difference("SavedModel", expected, found, columns)
    return len(columns[0]), difference, milliseconds


def _run_elsewhere(
    path: Path, columns: Sequence[Sequence[str]], result: str
) -> tuple[np.ndarray, float]:
    """What the SavedModel gives in a process that has only TensorFlow, and in what time."""
    import tensorflow as tf

    timed = min(TIMED, len(columns[0]))
    with tempfile.TemporaryDirectory() as folder:
        tf.io.write_file(f"{folder}/texts", tf.io.serialize_tensor(tf.constant(columns)))
        run_fresh("SavedModel", _CHILD, str(path), folder, result, str(timed))
        outputs = tf.io.parse_tensor(tf.io.read_file(f"{folder}/outputs"), tf.float32).numpy()
        seconds = tf.io.parse_tensor(tf.io.read_file(f"{folder}/seconds"), tf.float64).numpy()
    return outputs, 1e3 * float(np.median(seconds))
