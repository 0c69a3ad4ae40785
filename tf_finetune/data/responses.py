"""Prompts and responses as tokens: one row each, or several rows packed into one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tf_finetune.data.rows_file import taken
from tf_finetune.data.text import TokenLabels, TokenStore, length_for, pad, read_tokens

# Inputs of a network that takes packed rows; 0 stands for padding.
EXAMPLES, POSITIONS = "example_ids", "positions"
_TARGET = "target"


@dataclasses.dataclass(slots=True, kw_only=True)
class ResponseStore(TokenStore):
    """Token ids of every row, prompt and response behind each other.

    Attributes:
        target: int32, for each token of all rows the one behind it where that belongs to the
            row's response, else -1.
        packs: rows that stand in one; the first of them is number `len(table)`.
        packed: a batch says which tokens belong together, of single rows too.
    """

    target: np.ndarray
    packs: Sequence[np.ndarray] = ()
    packed: bool = False

    def members(self, row: int) -> list[int]:
        """The rows of the table that a row consists of."""
        count = len(self._offsets) - 1
        return [row] if row < count else self.packs[row - count].tolist()

    def targets(self, row: int) -> np.ndarray:
        """`target` of the tokens of one row."""
        return np.concatenate([self.target[span] for span in self._spans(row)])

    def response_tokens(self) -> np.ndarray:
        """int64, for each row of the table how many tokens of its response there are."""
        found = np.zeros(len(self._offsets) - 1, "int64")
        there = np.diff(self._offsets) > 0
        if there.any():
            begins = self._offsets[:-1][there]
            found[there] = np.add.reduceat(self.target >= 0, begins, dtype="int64")
        return found

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The padded int32 arrays (len(rows), length) of some rows."""
        return pad(self.preprocessor, [self._row(row) for row in rows.tolist()])

    def _spans(self, row: int) -> list[slice]:
        return [slice(self._offsets[i], self._offsets[i + 1]) for i in self.members(row)]

    def _row(self, row: int) -> dict[str, np.ndarray]:
        spans = self._spans(row)
        found = {
            name: np.concatenate([values[span] for span in spans])
            for name, values in self._columns.items()
        }
        if self.packed:
            sizes = [span.stop - span.start for span in spans]
            found[EXAMPLES] = np.repeat(np.arange(1, len(sizes) + 1, dtype="int32"), sizes)
            found[POSITIONS] = np.concatenate([np.arange(size, dtype="int32") for size in sizes])
        return found


class ResponseLabels(TokenLabels):
    """Of each token the next one, where that belongs to a response.

    Args:
        store: of the rows.
    """

    def __init__(self, store: ResponseStore) -> None:
        super().__init__(store)
        self._targets = store.targets

    def of(self, row: int) -> np.ndarray:
        """Those of one row; -1 where what comes next is of no response."""
        return self._targets(row)


def encode_pairs(
    preprocessor: Any, sequence_length: int
) -> Callable[[Sequence[str], Sequence[str]], list[dict[str, np.ndarray]]]:
    """A function from prompts and their responses to the arrays of each, without padding.

    The prompt is cut into tokens as it will be where the model is to respond to it, the
    response by itself, and the token that ends a text follows.

    Args:
        preprocessor: of a causal language model.
        sequence_length: the most tokens of a row; what goes beyond is cut off.
    """
    tokenizer = preprocessor.tokenizer

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)] * 2, autograph=False)
    def cut(prompts: tf.Tensor, responses: tf.Tensor) -> tuple[Any, Any, Any]:
        x = preprocessor.generate_preprocess(prompts, sequence_length=sequence_length)
        # Ragged, of whatever shape the tokenizer knows.
        written = tokenizer(responses)
        return x["token_ids"], tf.reduce_sum(tf.cast(x["padding_mask"], tf.int32), 1), written

    def encode(prompts: Sequence[str], responses: Sequence[str]) -> list[dict[str, np.ndarray]]:
        ids, lengths, written = cut(*(tf.constant(c, tf.string) for c in (prompts, responses)))
        ids, lengths, rows = ids.numpy(), lengths.numpy(), written.to_list()
        found = []
        for prompt, length, response in zip(ids, lengths.tolist(), rows, strict=True):
            whole = np.array([*prompt[:length], *response, tokenizer.end_token_id], "int32")
            first = max(length, 1)  # nothing comes before the first token
            whole = whole[:sequence_length]
            target = np.full(len(whole), -1, "int32")
            target[first - 1 : -1] = whole[first:]
            found.append({"token_ids": whole, _TARGET: target})
        return found

    return encode


def response_store(
    preprocessor: Any, table: pa.Table, rows: np.ndarray, folder: Path, digest: str
) -> ResponseStore:
    """As `text.tokenize`, of a table of prompts, `text`, and responses, `label`."""
    encode = encode_pairs(preprocessor, preprocessor.sequence_length)

    def of_rows(chosen: np.ndarray) -> list[dict[str, np.ndarray]]:
        return encode(*pairs_of(table, chosen))

    offsets, columns = read_tokens(preprocessor, of_rows, len(table), rows, folder, digest)
    target = np.asarray(columns.pop(_TARGET))
    return ResponseStore(
        preprocessor=preprocessor,
        lengths=np.diff(offsets),
        target=target,
        _offsets=offsets,
        _columns=columns,
    )


def pairs_of(table: pa.Table, rows: np.ndarray) -> tuple[list[str], list[str]]:
    """Prompts and responses of some rows of a table."""
    chosen = taken(table.select(["text", "label"]), rows)
    return chosen["text"].to_pylist(), chosen["label"].to_pylist()


def choose_pair_length(preprocessor: Any, table: pa.Table, rows: np.ndarray, most: int) -> int:
    """As `text.choose_length`, of prompts and responses together."""
    encode = encode_pairs(preprocessor, most)
    return length_for(lambda sample: encode(*pairs_of(table, sample)), rows, most)


def packs_of(lengths: np.ndarray, rows: np.ndarray, most: int) -> list[np.ndarray]:
    """Rows in groups of at most so many tokens: the longest first, each where it first fits.

    That takes at most 11/9 of the fewest groups, and one more (Johnson 1973).

    Args:
        lengths: tokens of all rows.
        rows: of which packs are made.
        most: tokens of a pack; none of the rows has more.
    """
    order = rows[np.argsort(-lengths[rows], kind="stable")]
    # The first pack with room for so many tokens is found by a tree of the largest room.
    size = 1 << max(len(rows) - 1, 0).bit_length()
    room = np.full(2 * size, most)
    packs: list[list[int]] = []
    for row in order.tolist():
        place, length = 1, int(lengths[row])
        while place < size:
            place = 2 * place + (room[2 * place] < length)
        if place - size == len(packs):
            packs.append([])
        packs[place - size].append(row)
        room[place] -= length
        while place > 1:
            place //= 2
            room[place] = max(room[2 * place], room[2 * place + 1])
    return [np.array(pack) for pack in packs]


def packed(store: ResponseStore, rows: np.ndarray) -> tuple[ResponseStore, np.ndarray]:
    """The store with packs of these rows, and the numbers of the packs."""
    most = store.preprocessor.sequence_length
    packs = packs_of(store.lengths, rows, most)
    sums = np.array([store.lengths[pack].sum() for pack in packs], "int64")
    more = dataclasses.replace(
        store, packs=packs, packed=True, lengths=np.concatenate([store.lengths, sums])
    )
    return more, np.arange(len(store.lengths), len(more.lengths))


def lost(store: ResponseStore, rows: np.ndarray) -> str:
    """What of the rows' responses does not fit, in a sentence; empty for nothing."""
    end = store.preprocessor.tokenizer.end_token_id
    # Behind the token before the last stands the last one, which ends the text.
    last = store.target[np.maximum(store._offsets[1:][rows] - 2, 0)]
    cut = int((last != end).sum())
    without = int((store.response_tokens()[rows] == 0).sum())
    if not cut:
        return ""
    return (
        f"of {cut:,} rows the end is beyond {store.preprocessor.sequence_length} tokens, of "
        f"{without:,} of them the whole response, from which nothing is learnt; "
        "config.model.sequence_length may be raised"
    )
