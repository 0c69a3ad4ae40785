"""Texts to words, and words to the pieces of a WordPiece tokenizer, in TensorFlow's graph.

A text is divided by a rule: letters, digits and their marks are one word, also where a hyphen,
a full stop, an apostrophe or an ampersand stands between two of them, or a comma before a
digit; any other character is a word of its own; spaces and control characters are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

_LETTERS = r"[\pL\pN\pM]+"
_SPACE = r"[\s\pZ\pC]+"
_WORD = rf"{_LETTERS}(?:[-.'\x{{2019}}&]{_LETTERS}|,\pN{_LETTERS}|,\pN)*|[^\s\pZ\pC\pL\pN\pM]"
# Bytes that TensorFlow Text would end a string at.
_ZERO = r"\x00"


def divided(texts: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
    """The words of texts (n,), and the bytes at which each begins and ends, all (n, words)."""
    import tensorflow_text as tf_text

    clean = tf.strings.regex_replace(texts, _ZERO, " ")
    # What divides is the word itself: all else vanishes.
    return tf_text.regex_split_with_offsets(clean, f"{_WORD}|{_SPACE}", _WORD)


def in_pieces(preprocessor: Any, words: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """The token ids of words between the two marks that BERT has around a text, cut to fit.

    They are those of the text with spaces between its words, because WordPiece cuts each word
    by itself.

    Args:
        preprocessor: with a WordPiece `tokenizer`, and its `sequence_length`.
        words: strings (n, words).

    Returns:
        Both int32 (n, pieces): the ids; and where a word begins its number in the row, else
        -1. Words without a piece, as of control characters alone, begin nowhere.
    """
    tokenizer = preprocessor.tokenizer
    pieces = tokenizer.tokenize(tf.strings.regex_replace(words.flat_values, _ZERO, ""))
    sizes = tf.cast(pieces.row_lengths(), tf.int64)
    number = tf.ragged.range(words.row_lengths()).flat_values
    place = tf.ragged.range(sizes).flat_values
    begins = tf.where(place == 0, tf.repeat(number, sizes), tf.constant(-1, number.dtype))
    lengths = tf.reduce_sum(words.with_flat_values(sizes), axis=1)
    most = preprocessor.sequence_length - 2
    found = []
    for values, first, last in (
        (tf.cast(pieces.flat_values, tf.int32), tokenizer.cls_token_id, tokenizer.sep_token_id),
        (tf.cast(begins, tf.int32), -1, -1),
    ):
        row = tf.RaggedTensor.from_row_lengths(values, lengths)[:, :most]
        marks = [tf.fill([row.nrows(), 1], tf.constant(mark, tf.int32)) for mark in (first, last)]
        found.append(tf.concat([marks[0], row, marks[1]], axis=1))
    return found[0], found[1]


def padded_inputs(ids: tf.RaggedTensor, names: Sequence[str], padding: int) -> dict[str, tf.Tensor]:
    """What a backbone takes, padded to the longest row.

    Args:
        ids: as `in_pieces` gives them.
        names: of the backbone's inputs: `token_ids`, `padding_mask`, perhaps `segment_ids`.
        padding: the id behind a text.
    """
    token_ids = ids.to_tensor(padding)
    zeros = tf.zeros_like(token_ids)
    found = {
        "token_ids": token_ids,
        "segment_ids": zeros,
        "padding_mask": tf.ones_like(ids).to_tensor(0),
    }
    return {name: found[name] for name in names}
