"""LiteRT and ONNX files of models of texts: token ids in, in float32; and how any are made."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tf_finetune.exports.hugging_face_tokenizer import write_tokenizer
from tf_finetune.exports.parity import result_name, run_fresh

LITERT_FILE, ONNX_FILE = "model.tflite", "model.onnx"
# LiteRT's own operations alone: no interpreter needs TensorFlow's beside it.
TO_LITERT = f"""
import sys
import tensorflow as tf
converter = tf.lite.TFLiteConverter.from_saved_model(sys.argv[1], ["serving_default"])
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
{{quantise}}
with open(sys.argv[2] + "/{LITERT_FILE}", "wb") as file:
    file.write(converter.convert())
"""
TO_ONNX = f"""
import sys
import tf2onnx.convert
sys.argv[1:] = [
    "--saved-model", sys.argv[1], "--output", sys.argv[2] + "/{ONNX_FILE}", "--opset", "17",
]
tf2onnx.convert.main()
"""
RUN_LITERT = f"""
from ai_edge_litert.interpreter import Interpreter
runner = Interpreter(path + "/{LITERT_FILE}").get_signature_runner("serving_default")
run = lambda i: runner(**inputs(i))[result]
"""
RUN_ONNX = f"""
import onnxruntime
session = onnxruntime.InferenceSession(
    path + "/{ONNX_FILE}", providers=["CPUExecutionProvider"]
)
run = lambda i: session.run([result], inputs(i))[0]
"""


def write_litert(model: Any, path: Path) -> None:
    """Writes `model.tflite`, and what cuts text into its tokens.

    The signature `serving_default` takes the model's inputs, int32 (n, length) of any n
    and length, and gives `probabilities` (n, k), or for regression `value` (n, 1).

    Raises:
        ExportError: if the model has an operation that LiteRT lacks.
    """
    _write("LiteRT file", TO_LITERT.format(quantise=""), model, path)


def write_onnx(model: Any, path: Path) -> None:
    """Writes `model.onnx`, with inputs and output as `write_litert`'s.

    Raises:
        ExportError: if the model has an operation that ONNX lacks.
    """
    _write("ONNX file", TO_ONNX, model, path)


def _write(what: str, code: str, model: Any, path: Path) -> None:
    import tensorflow as tf

    signature = {name: tf.TensorSpec([None, None], tf.int32) for name in model.scorer.input}
    with tempfile.TemporaryDirectory() as folder:
        write_network(model, folder, signature)
        # Converters talk a lot, and keep memory.
        run_fresh(what, code, folder, str(path))
    write_tokenizer(model.preprocessor, path)


def write_network(model: Any, folder: str, signature: Mapping[str, Any]) -> None:
    """Writes a SavedModel of the network alone, which the converters read.

    Args:
        model: of texts or pictures.
        folder: to write to.
        signature: `TensorSpec` of each input, by name.
    """
    import keras
    import tensorflow as tf

    scorer, result = model.scorer, result_name(model.kind)
    archive = keras.export.ExportArchive()

    def score(*arrays: tf.Tensor) -> dict[str, tf.Tensor]:
        named = dict(zip(signature, arrays, strict=True))
        given = named if isinstance(scorer.input, dict) else arrays[0]
        return {result: scorer(given, training=False)}

    taken = [tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in signature.items()]
    archive.add_endpoint("serving_default", tf.function(score, input_signature=taken))
    archive.write_out(folder, verbose=False)
