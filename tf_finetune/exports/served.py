"""Exported models, each back as something that predicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.data.pictures.decode import Unusable, decode, of_python, refuse_one
from tf_finetune.data.spans import Tagged, are_words, in_characters, places_of, tagged
from tf_finetune.errors import UserError
from tf_finetune.exports.folder import FORMAT, digest, read_marker
from tf_finetune.exports.parity import result_name
from tf_finetune.exports.saved_model import PIXELS, SIGNATURE


class Exported:
    """An exported model; needs TensorFlow and for texts TensorFlow Text, not KerasHub.

    Attributes:
        path: the version folder, `.../saved_model/1`.
        kind: as `config.model.task`.
        class_names: what the k outputs stand for.

    Args:
        path: a version folder.

    Raises:
        UserError: if it was not written by `export`, by a newer version of it, or
            has changed since.
    """

    def __init__(self, path: Path) -> None:
        marker = read_marker(path)
        if marker is None:
            raise UserError(
                f'"{path}" is a SavedModel that tf_finetune did not write; load it with '
                "tf.saved_model.load."
            )
        if marker["format"] > FORMAT:
            raise UserError(
                f'"{path}" was written by a newer tf_finetune (format {marker["format"]}, here '
                f"{FORMAT}); run `pip install --upgrade tf_finetune`."
            )
        if marker["digest"] != digest(path):
            raise UserError(
                f'"{path}" is damaged: its files are not those that were exported. Copy it again, '
                "or export again."
            )
        import tensorflow as tf

        self.path, self.kind = path, marker["kind"]
        self.class_names = tuple(marker["class_names"])
        self._inputs = marker["inputs"]
        self._loaded = tf.saved_model.load(str(path))
        self._signatures = self._loaded.signatures

    def _answer(self, signature: str, **inputs: Any) -> np.ndarray:
        found = self._signatures[signature](**inputs)[result_name(self.kind)].numpy()
        return found.reshape(len(found), -1)


class ExportedModel(Exported):
    """An exported model of texts."""

    column = "text"

    def __init__(self, path: Path) -> None:
        import tensorflow_text  # noqa: F401 - registers the tokenizer's operations

        super().__init__(path)

    def predict(
        self, x: Sequence[str] | tuple[Sequence[str], Sequence[str]], batch_size: int = 64
    ) -> np.ndarray:
        """Probabilities, scores or values, as `TextTask.predict` gives them.

        Args:
            x: n strings; for pairs a tuple of two such lists.
            batch_size: texts a step.

        Returns:
            A float32 array (n, k).

        Raises:
            UserError: if `x` is one string, or pairs where texts are due or the
                other way round.
        """
        columns: list[list[str]] = [list(c) for c in x] if _is_pair(x) else [list(x)]  # type: ignore
        if isinstance(x, str) or len(columns) != len(self._inputs):
            due = "a list of strings" if len(self._inputs) == 1 else "a tuple of two lists"
            raise UserError(f"predict() of this model takes {due}.")
        outputs = np.empty((len(columns[0]), len(self.class_names)), "float32")
        # Texts of one length together: a batch is padded to its longest.
        order = np.argsort([sum(map(len, row)) for row in zip(*columns, strict=True)])
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            outputs[chosen] = self._step([[column[i] for i in chosen] for column in columns])
        return outputs

    def _step(self, columns: list[list[str]]) -> np.ndarray:
        import tensorflow as tf

        tensors = {
            name: tf.constant(column, tf.string)
            for name, column in zip(self._inputs, columns, strict=True)
        }
        return self._answer(SIGNATURE, **tensors)


class ExportedTags(Exported):
    """An exported model that tags words."""

    column = "words"

    def __init__(self, path: Path) -> None:
        import tensorflow_text  # noqa: F401 - registers the tokenizer's operations

        super().__init__(path)

    def predict(self, x: Sequence[Any], batch_size: int = 64) -> list[Tagged]:
        """Tags of words, as `TokenTask.predict` gives them.

        Args:
            x: n texts, or n lists of words.
            batch_size: texts a step.

        Raises:
            UserError: if `x` is one text, or holds both.
        """
        kind = None if isinstance(x, str) else are_words(list(x))
        if kind is None:
            raise UserError("predict() of this model takes a list of texts, or of lists of words.")
        found: dict[int, Tagged] = {}
        # Texts of one length together, as in `Exported.predict`.
        order = np.argsort([len(row) for row in x], kind="stable").tolist()
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            chosen = [x[i] for i in places]
            tagged = self._of_words(chosen) if kind else self._of_texts(chosen)
            found |= zip(places, tagged, strict=True)
        return [found[i] for i in range(len(order))]

    def _of_texts(self, texts: list[str]) -> list[Tagged]:
        import tensorflow as tf

        found = self._signatures[SIGNATURE](text=tf.constant(texts, tf.string))
        words, starts, ends, shares = (
            found[name].numpy() for name in ("words", "starts", "ends", "probabilities")
        )
        rows = []
        for i, text in enumerate(texts):
            count = int((starts[i] >= 0).sum())
            first, last = (in_characters(text, part[i, :count]) for part in (starts, ends))
            own = [word.decode() for word in words[i, :count]]
            rows.append(tagged(text, own, first, last, shares[i, :count], self.class_names))
        return rows

    def _of_words(self, rows: list[Sequence[str]]) -> list[Tagged]:
        import tensorflow as tf

        wide = max(map(len, rows))
        padded = [[*row, *[""] * (wide - len(row))] for row in rows]
        given = tf.constant(padded, tf.string, shape=(len(rows), wide))
        shares = self._signatures["serving_words"](words=given)["probabilities"].numpy()
        found = []
        for i, row in enumerate(rows):
            own = np.zeros((len(row), len(self.class_names)), "float32")
            own[: shares.shape[1]] = shares[i, : len(row)]
            text, starts, ends = places_of(row)
            found.append(tagged(text, row, starts, ends, own, self.class_names))
        return found


class ExportedPictures(Exported):
    """An exported model of pictures."""

    column = "image"

    def predict(self, x: Sequence[Any], batch_size: int = 64) -> np.ndarray:
        """Probabilities, scores or values, as `ImageTask.predict` gives them.

        They differ in the last digits where pictures are resized.

        Args:
            x: n pictures, each the path or the bytes of a JPEG, PNG, GIF or BMP file, or in memory
                as `ImageTask.predict` takes them.
            batch_size: files a step.

        Returns:
            A float32 array (n, k).

        Raises:
            UserError: if a file cannot be read, or is none of these.
        """
        import tensorflow as tf

        refuse_one(x)
        outputs = np.empty((len(x), len(self.class_names)), "float32")
        files = [i for i, one in enumerate(x) if isinstance(one, str | bytes | Path)]
        for start in range(0, len(files), batch_size):
            chosen = files[start : start + batch_size]
            try:
                content = tf.constant([_bytes_of(x[i]) for i in chosen], tf.string)
                outputs[chosen] = self._answer(SIGNATURE, image_bytes=content)
            except (OSError, tf.errors.InvalidArgumentError) as error:
                reason = str(error).strip().partition("\n")[0]
                first = x[chosen[0]]
                shown = "some bytes" if isinstance(first, bytes) else first
                raise UserError(
                    f"A picture among {shown} and the next {len(chosen)} cannot be read: "
                    f"{reason}. Give whole JPEG, PNG, GIF or BMP files."
                ) from None
        for i in sorted(set(range(len(x))) - set(files)):
            try:
                pixels = np.asarray(decode(of_python(x[i])))
            except (ValueError, Unusable) as error:
                raise UserError(f"picture {i}: {error}") from None
            outputs[i] = self._answer(PIXELS, pixels=tf.constant(pixels[np.newaxis]))[0]
        return outputs


def _bytes_of(picture: str | Path | bytes) -> bytes:
    return picture if isinstance(picture, bytes) else Path(picture).read_bytes()


class ExportedResponses(Exported):
    """An exported language model that responds to prompts."""

    column = "text"

    def __init__(self, path: Path) -> None:
        import tensorflow_text  # noqa: F401 - registers the tokenizer's operations

        super().__init__(path)

    def predict(self, x: Sequence[str], batch_size: int = 16) -> list[str]:
        """Responses to prompts, as `LanguageTask.predict` gives them.

        Args:
            x: n prompts.
            batch_size: prompts a step.

        Raises:
            UserError: if `x` is one string.
        """
        import tensorflow as tf

        if isinstance(x, str):
            raise UserError("predict() of this model takes a list of prompts.")
        found: list[str] = []
        for start in range(0, len(x), batch_size):
            prompts = tf.constant(list(x[start : start + batch_size]), tf.string)
            written = self._signatures[SIGNATURE](text=prompts)["response"].numpy()
            found += [one.decode(errors="ignore") for one in written]
        return found


def _is_pair(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) == 2 and not isinstance(x[0], str)
