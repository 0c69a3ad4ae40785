"""A task on the words of texts: tokenizer, backbone and a head for each piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from tf_finetune.data.pieces import encode_words
from tf_finetune.data.spans import are_words, in_characters, places_of, tagged
from tf_finetune.data.text import pad
from tf_finetune.data.words import divided
from tf_finetune.errors import UserError
from tf_finetune.model.task import WHOLE, TextTask

_WORD = "word"


@keras.saving.register_keras_serializable("tf_finetune")
class TokenTask(TextTask):
    """A `TextTask` that gives each word a tag.

    Called on token ids it gives probabilities of the tags (n, pieces, k), of which those at
    the first piece of each word count.

    Args:
        words: the mean number of words of a training row, the unit of the loss.
        **given: as for `TextTask`.
    """

    column = "words"
    one_vector = False

    def __init__(self, *args: Any, words: float = 1.0, **given: Any) -> None:
        super().__init__(*args, **given | {"pooling": WHOLE})
        self.words = words

    def predict(self, x: Any, batch_size: int = 64, **kwargs: Any) -> Any:
        """Tags of the words of texts, or anything that Keras predicts.

        Args:
            x: a list of texts, which are divided into words by the rule in `data/words.py`,
                or a list of lists of words; or input that `keras.Model.predict` takes.
            batch_size: texts a step.
            **kwargs: for `keras.Model.predict` where `x` is neither.

        Returns:
            A `Tagged` for each text.
        """
        rows = rows_of(x)
        if rows is None:
            return keras.Model.predict(self, x, batch_size=batch_size, **kwargs)
        if not rows:
            return []
        encoded = encode_words(self.preprocessor, list(self.backbone.input))(
            [words for _, words, _, _ in rows]
        )
        found = [np.zeros((len(words), len(self.class_names)), "float32") for _, words, *_ in rows]
        order = np.argsort([row["token_ids"].size for row in encoded], kind="stable")
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            begins = [encoded[i].pop(_WORD) for i in chosen]
            outputs = np.asarray(self(pad(self.preprocessor, [encoded[i] for i in chosen])))
            for i, word, output in zip(chosen, begins, outputs, strict=True):
                found[i][word[word >= 0]] = output[: len(word)][word >= 0]
        return [
            tagged(*row, probabilities, self.class_names)
            for row, probabilities in zip(rows, found, strict=True)
        ]

    def _own_config(self) -> dict[str, Any]:
        return super()._own_config() | {"words": self.words}


def check_tokenizer(preprocessor: Any, preset: str) -> None:
    """Raises `UserError` where words cannot be told from pieces."""
    tokenizer = preprocessor.tokenizer
    if not isinstance(tokenizer, keras_hub.tokenizers.WordPieceTokenizer):
        raise UserError(
            f'config.model.preset "{preset}" has a {type(tokenizer).__name__}, which cuts a word '
            "by what stands before it; token classification needs WordPiece, as BERT, DistilBERT "
            "and minilm have it. Choose one of these."
        )


def rows_of(x: Any) -> list[tuple[str, list[str], Any, Any]] | None:
    """Of each text: itself, its words, and the characters where they begin and end.

    Args:
        x: texts, or lists of words.

    Returns:
        None if it is neither.
    """
    if isinstance(x, np.ndarray) and x.dtype.kind in "UO" and x.ndim == 1:
        x = x.tolist()
    if not isinstance(x, list | tuple):
        return None
    kind = are_words(x)
    if kind is None:
        return None
    if not kind:
        return _divided(x)
    found = [(places_of(row), list(row)) for row in x]
    return [(text, words, starts, ends) for (text, starts, ends), words in found]


def _divided(texts: Sequence[str]) -> list[tuple[str, list[str], Any, Any]]:
    if not texts:
        return []
    words, starts, ends = divided(tf.constant(texts, tf.string))
    found = []
    for i, text in enumerate(texts):
        first, last = (in_characters(text, part[i].numpy()) for part in (starts, ends))
        found.append((text, [word.decode() for word in words[i].numpy()], first, last))
    return found
