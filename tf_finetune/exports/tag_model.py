"""A SavedModel that tags words, proved equal to the model in a fresh process."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.data.spans import Tagged
from tf_finetune.data.words import divided, in_pieces, padded_inputs
from tf_finetune.errors import ExportError
from tf_finetune.exports import saved_model
from tf_finetune.exports.parity import (
    HARD_TEXTS,
    TIMED,
    largest_difference,
    run_fresh,
)
from tf_finetune.exports.saved_model import ExportInfo
from tf_finetune.model.token_task import TokenTask

WORDS = "serving_words"
_HARD_WORDS: tuple[list[str], ...] = (
    ["", "\u200b", "word"],
    ["New York", "[SEP]", "U.S."],
    [],
    ["a"] * 1_000,
)
_CHILD = """
import json, sys, time
import numpy as np
import tensorflow as tf
import tensorflow_text
model, folder, timed = sys.argv[1:]
served = tf.saved_model.load(model).signatures
with open(folder + "/given.json", encoding="utf-8") as file:
    given = json.load(file)
arrays = {}
def run(name, **inputs):
    found = served[name](**{key: tf.constant(v, tf.string) for key, v in inputs.items()})
    return {key: value.numpy() for key, value in found.items()}
for i, text in enumerate(given["texts"]):
    found = run("serving_default", text=[text])
    arrays |= {f"text-{i}-{key}": found[key][0] for key in ("probabilities", "tags")}
wide = max(map(len, given["rows"]))
padded = [row + [""] * (wide - len(row)) for row in given["rows"]]
found = run("serving_words", words=padded)
arrays |= {f"words-{key}": found[key] for key in ("probabilities", "tags")}
seconds = []
for i in range(int(timed)):
    began = time.perf_counter()
    run("serving_default", text=[given["texts"][i]])
    seconds.append(time.perf_counter() - began)
arrays = {key: v.astype("S") if v.dtype == object else v for key, v in arrays.items()}
np.savez(folder + "/found.npz", seconds=seconds, **arrays)
"""


def export_tags(
    model: TokenTask, folder: str | os.PathLike, rows: Sequence[Sequence[str]]
) -> ExportInfo:
    """Writes `folder/saved_model/1`: texts or words in, words with tags out.

    The signature `serving_default` takes `text`, strings (n,), and divides them into words.
    It gives `words` (n, w), padded with empty strings, `starts` and `ends` (n, w), the bytes
    of UTF-8 where each begins and ends, `tags` (n, w), in IOB2, `probabilities` (n, w, k) and
    `class_names` (n, k), the tags that these stand for. `serving_words` takes `words` (n, w),
    padded with empty strings, and gives `tags`, `probabilities` and `class_names`. A word that
    is not seen, as behind the most tokens, has the tag O and probabilities of 0.

    The folder gets its name only once a fresh process, which imports TensorFlow and
    TensorFlow Text alone, has given the model's own outputs by both signatures for these rows
    and for hard ones.

    Args:
        model: that computes in float32.
        folder: usually `WORKDIR/export`.
        rows: of words.

    Raises:
        UserError: as `saved_model.export`.
        ExportError: as `saved_model.export`; if a tag differs, too.
    """
    texts = [" ".join(row) for row in rows] + list(HARD_TEXTS)
    compared = [list(row) for row in (*rows, *_HARD_WORDS)]
    return saved_model.written_and_proved(
        model,
        folder,
        ["text", "words"],
        write=lambda path: _write(model, path),
        compare=lambda path: _compare(model, path, compared, texts),
    )


def _write(model: TokenTask, path: Path) -> None:
    """The tokenizer alone is tracked: see `saved_model._write`."""
    import keras
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    preprocessor: Any = model.preprocessor
    tokenizer = preprocessor.tokenizer
    tokenizer.built = True
    archive.track(tokenizer)
    for name, function, spec in (
        (saved_model.SIGNATURE, _of_texts, tf.TensorSpec([None], tf.string, name="text")),
        (WORDS, _of_words, tf.TensorSpec([None, None], tf.string, name="words")),
    ):
        archive.add_endpoint(name, tf.function(function(model), input_signature=[spec]))
    archive.write_out(str(path), verbose=False)


def _of_texts(model: TokenTask) -> Callable[[Any], dict[str, Any]]:
    def serve(text: Any) -> dict[str, Any]:
        words, starts, ends = divided(text)
        places = {"words": words.to_tensor(""), "starts": starts.to_tensor(-1)}
        return places | {"ends": ends.to_tensor(-1)} | _answers(model, words)

    return serve


def _of_words(model: TokenTask) -> Callable[[Any], dict[str, Any]]:
    import tensorflow as tf

    def serve(words: Any) -> dict[str, Any]:
        given = tf.RaggedTensor.from_tensor(words, padding="")
        return _answers(model, given)

    return serve


def _answers(model: TokenTask, words: Any) -> dict[str, Any]:
    import tensorflow as tf

    preprocessor: Any = model.preprocessor
    ids, begins = in_pieces(preprocessor, words)
    names = list(model.backbone.input)
    outputs = model(padded_inputs(ids, names, preprocessor.tokenizer.pad_token_id), training=False)
    begins = begins.to_tensor(-1)
    pieces = tf.where(begins >= 0)  # (words that are seen, [row, piece])
    number = tf.cast(tf.gather_nd(begins, pieces), tf.int64)
    shape = tf.concat([words.bounding_shape(), [len(model.class_names)]], axis=0)
    places = tf.stack([pieces[:, 0], number], axis=1)
    probabilities = tf.scatter_nd(places, tf.gather_nd(outputs, pieces), shape)
    codes = tf.argmax(probabilities, axis=-1)
    kind = (codes - 1) // 2
    before = tf.pad(kind[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
    orphan = (codes > 0) & (codes % 2 == 0) & (before != kind)
    tags = tf.gather(tf.constant(model.class_names), tf.where(orphan, codes - 1, codes))
    there = tf.sequence_mask(words.row_lengths(), tf.shape(tags)[1])
    return {
        "tags": tf.where(there, tags, ""),
        "probabilities": probabilities,
        "class_names": tf.tile(tf.constant([model.class_names]), [words.nrows(), 1]),
    }


def _compare(
    model: TokenTask, path: Path, rows: list[list[str]], texts: list[str]
) -> tuple[int, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        given = json.dumps({"rows": rows, "texts": texts})
        Path(folder, "given.json").write_text(given, encoding="utf-8")
        run_fresh("SavedModel", _CHILD, str(path), folder, str(min(TIMED, len(texts))))
        with np.load(f"{folder}/found.npz") as arrays:
            found = dict(arrays)
    differences = []
    for i, one in enumerate(model.predict(texts)):
        parts = (found[f"text-{i}-{key}"] for key in ("probabilities", "tags"))
        differences.append(_difference(one, *parts))
    for i, one in enumerate(model.predict(rows)):
        parts = (found[f"words-{key}"][i] for key in ("probabilities", "tags"))
        differences.append(_difference(one, *parts))
    milliseconds = 1e3 * float(np.median(found["seconds"]))
    return len(rows) + len(texts), max(differences), milliseconds


def _difference(expected: Tagged, probabilities: np.ndarray, tags: np.ndarray) -> float:
    """The largest of a row; other tags are allowed only where two are as likely."""
    count = len(expected.words)
    if not count:
        return 0.0
    width = expected.probabilities.shape[1]
    got = np.zeros((count, width), "float32")
    got[: len(probabilities)] = probabilities[:count]
    words = [expected.words]
    difference = largest_difference("SavedModel", expected.probabilities, got, words, word="word")
    named = [tag.decode() for tag in tags[:count].tolist()]
    named += ["O"] * (count - len(named))
    top = np.sort(expected.probabilities, axis=1)[:, -2:]
    clear = bool((top[:, 1] - top[:, 0] > 2 * difference).all()) and count == len(named)
    if clear and [tag or "O" for tag in named] != expected.tags:
        raise ExportError(
            f"The SavedModel gives other tags than the model for {' '.join(expected.words)[:80]!r}"
            "; nothing was exported."
        )
    return difference
