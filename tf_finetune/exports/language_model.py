"""A language model as a SavedModel or a KerasHub folder, proved to respond as the model does."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.errors import ExportError
from tf_finetune.exports import hub_folder, saved_model
from tf_finetune.exports.parity import Proof, run_fresh
from tf_finetune.exports.saved_model import ExportInfo
from tf_finetune.model.language_task import LanguageTask

# Every token of a response is a pass through the model, so a few prompts have to do.
_MOST_PROMPTS, _TIMED = 8, 3
_HARD_PROMPTS = (
    "",
    " ",
    "word " * 10_000,
    "👍🏽 great 🎬🍿 film 🇫🇷 👨‍👩‍👧",
    "这部电影非常好看。日本語のテキスト。",
    "bell\x07escape\x1b[0m\x7f\u200b\ufeff\u202eend\x00",
)
_SERVED = """
import tensorflow as tf
import tensorflow_text
serve = tf.saved_model.load(path).signatures["serving_default"]
def respond(prompt):
    return serve(text=tf.constant([prompt]))["response"].numpy()[0].decode(errors="ignore")
"""
_HUB = """
import keras_hub
model = keras_hub.models.CausalLM.from_preset(path, dtype="float32")
model.preprocessor.sequence_length = length
from tf_finetune.model.language_task import language_task
task = language_task(model)
respond = lambda prompt: task.predict([prompt])[0]
"""
_CHILD = """
import json, sys, time
path, folder, length, timed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with open(folder + "/prompts.json", encoding="utf-8") as file:
    prompts = json.load(file)
{code}
found = [respond(prompt) for prompt in prompts]
seconds = []
for prompt in prompts[:timed]:
    began = time.perf_counter()
    respond(prompt)
    seconds.append(time.perf_counter() - began)
with open(folder + "/found.json", "w", encoding="utf-8") as file:
    json.dump([found, seconds], file)
"""


def export_responses(
    model: LanguageTask, folder: str | os.PathLike, prompts: Sequence[str]
) -> ExportInfo:
    """Writes `folder/saved_model/1`: prompts in, responses out.

    The signature `serving_default` takes `text`, strings (n,), and gives `response`, strings
    (n,): greedily, until the token that ends a text or the preprocessor's `sequence_length`.

    The folder gets its name only once a fresh process, which imports TensorFlow and TensorFlow
    Text alone, has written the model's own responses to some of these prompts and to hard ones.

    Args:
        model: that computes in float32.
        folder: usually `WORKDIR/export`.
        prompts: real ones.

    Raises:
        UserError: as `saved_model.export`.
        ExportError: if a response differs.
    """
    return saved_model.written_and_proved(
        model,
        folder,
        ["text"],
        write=lambda path: _write(model, path),
        compare=lambda path: _compare(model, path, prompts, "SavedModel", _SERVED),
    )


def written_for_keras_hub(
    model: LanguageTask, path: Path, columns: Sequence[Sequence[str]], name: str
) -> Proof:
    """Writes what `keras_hub.models.CausalLM.from_preset` reads, proved likewise."""
    hub_folder.write(model, path)
    compared, difference, milliseconds = _compare(model, path, columns[0], name, _HUB)
    return Proof(
        inputs=["text"],
        compared=compared,
        difference=difference,
        milliseconds=milliseconds,
        facts={},
    )


def _write(model: LanguageTask, path: Path) -> None:
    """The tokenizer alone is tracked: see `saved_model._write`."""
    import keras
    import tensorflow as tf

    archive, respond = keras.export.ExportArchive(), model.responding()
    preprocessor: Any = model.preprocessor
    tokenizer = preprocessor.tokenizer
    tokenizer.built = True
    archive.track(tokenizer)
    spec = tf.TensorSpec([None], tf.string, name="text")
    serve = tf.function(lambda text: {"response": respond(text)}, input_signature=[spec])
    archive.add_endpoint(saved_model.SIGNATURE, serve)
    archive.write_out(str(path), verbose=False)


def _compare(
    model: LanguageTask, path: Path, prompts: Sequence[str], what: str, code: str
) -> tuple[int, float, float]:
    """How many responses were compared, 0.0, and the milliseconds of one."""
    import tensorflow as tf

    given = [*prompts[:_MOST_PROMPTS], *_HARD_PROMPTS]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "prompts.json").write_text(json.dumps(given), encoding="utf-8")
        preprocessor: Any = model.preprocessor
        length = str(preprocessor.sequence_length)
        run_fresh(what, _CHILD.format(code=code), str(path), folder, length, str(_TIMED))
        found, seconds = json.loads(Path(folder, "found.json").read_text(encoding="utf-8"))
    # One at a time and by a processor, as there: else the last digits may be others.
    with tf.device("CPU"):
        wanted = [model.predict([prompt])[0] for prompt in given]
    for prompt, response, expected in zip(given, found, wanted, strict=True):
        if response != expected:
            raise ExportError(
                f"The {what} responds {response[:80]!r} to {prompt[:80]!r}, but the model "
                f"{expected[:80]!r}; nothing was exported."
            )
    return len(given), 0.0, 1e3 * float(np.median(seconds))
