"""Pieces of words, and the tags of the words that begin at them, by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tf_finetune.data.rows_file import taken
from tf_finetune.data.tags import Tags
from tf_finetune.data.text import TokenLabels, TokenStore, read_tokens
from tf_finetune.data.words import in_pieces

_WORD = "word"


@dataclasses.dataclass(slots=True, kw_only=True)
class PieceStore(TokenStore):
    """Token ids of every row of a table of words.

    Attributes:
        word: int32, for each piece of all rows the number of the word that begins there in its
            row; -1 where none does.
    """

    word: np.ndarray

    def begins(self, row: int) -> np.ndarray:
        """`word` of the pieces of one row."""
        return self.word[self._offsets[row] : self._offsets[row + 1]]

    def seen(self, row: int) -> np.ndarray:
        """The numbers of the words of a row that have a piece here, ascending."""
        begins = self.begins(row)
        return begins[begins >= 0]


class PieceLabels(TokenLabels):
    """Of each piece the tag of the word that begins there.

    Args:
        store: of the rows.
        tags: of their words.
    """

    def __init__(self, store: PieceStore, tags: Tags) -> None:
        super().__init__(store)
        self._store, self._tags = store, tags

    def of(self, row: int) -> np.ndarray:
        """Those of one row; -1 where no word begins."""
        begins = self._store.begins(row)
        return np.where(begins >= 0, self._tags.of(row)[begins], -1)


def encode_words(preprocessor: Any, names: Sequence[str]) -> Callable[..., list[dict]]:
    """A function from rows of words to their arrays, without padding.

    Args:
        preprocessor: as for `in_pieces`.
        names: of the backbone's inputs.

    Returns:
        It takes a list of lists of words, and gives for each the backbone's int32 arrays
        without the mask, and `word` as in `PieceStore`.
    """
    traced = tf.function(
        lambda words: in_pieces(preprocessor, words),
        input_signature=[tf.RaggedTensorSpec([None, None], tf.string, ragged_rank=1)],
        autograph=False,
    )

    def encode(sentences: Sequence[Sequence[str]]) -> list[dict[str, np.ndarray]]:
        ids, begins = traced(tf.ragged.constant(sentences, tf.string, ragged_rank=1))
        ends = ids.row_splits.numpy()[1:-1]
        parts = (np.split(found.flat_values.numpy(), ends) for found in (ids, begins))
        return [
            {
                "token_ids": row,
                **({"segment_ids": np.zeros_like(row)} if "segment_ids" in names else {}),
                _WORD: word,
            }
            for row, word in zip(*parts, strict=True)
        ]

    return encode


def piece_store(
    preprocessor: Any,
    names: Sequence[str],
    table: pa.Table,
    rows: np.ndarray,
    folder: Path,
    digest: str,
) -> PieceStore:
    """As `text.tokenize`, of a table with `words`; `names` are of the backbone's inputs."""
    encode = encode_words(preprocessor, names)

    def of_rows(chosen: np.ndarray) -> list[dict[str, np.ndarray]]:
        return encode(taken(table.select(["words"]), chosen)["words"].to_pylist())

    offsets, columns = read_tokens(preprocessor, of_rows, len(table), rows, folder, digest)
    word = np.asarray(columns.pop(_WORD))
    return PieceStore(
        preprocessor=preprocessor,
        lengths=np.diff(offsets),
        word=word,
        _offsets=offsets,
        _columns=columns,
    )


def lost(store: PieceStore, tags: Tags, rows: np.ndarray) -> str:
    """What of the rows the model does not see, in a sentence; empty for nothing."""
    words = entities = cut = 0
    for row in rows.tolist():
        codes, seen = tags.of(row), store.seen(row)
        if len(seen) < len(codes):
            unseen = np.delete(codes, seen)
            cut += 1
            words, entities = words + len(unseen), entities + int((unseen > 0).sum())
    if not words:
        return ""
    return (
        f"{words:,} words of {cut:,} rows, {entities:,} of them in entities, are beyond "
        f"{store.preprocessor.sequence_length} tokens or without any: their tags are not trained "
        "on, and in the evaluation they count as tagged O"
    )
