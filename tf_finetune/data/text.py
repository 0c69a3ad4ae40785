"""Texts to token ids, kept on disk without padding."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from tf_finetune.data.rows_file import taken
from tf_finetune.whole import written_whole

_MASK = "padding_mask"
_CHUNK = 512
# Lengths are rounded up to this, so that few shapes occur.
_STEP = 8


def encode(
    preprocessor: Callable[..., Any], *columns: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Tokenises texts, or pairs of texts, by a KerasHub preprocessor.

    Args:
        preprocessor: a `keras_hub` text preprocessor, or `in_graph` of one.
        *columns: one sequence of n texts, or two for pairs.

    Returns:
        For each text the preprocessor's int32 arrays cut to the real tokens,
        without the padding mask, which is then all ones.
    """
    rows: list[dict[str, np.ndarray]] = []
    for start in range(0, len(columns[0]), _CHUNK):
        # Lists, because byte-pair tokenizers refuse arrays of objects; by keyword,
        # because KerasHub takes a positional pair for inputs and labels.
        # TensorFlow Text ends some strings at a zero byte; exports take it out likewise.
        chunk = [[x.replace("\0", "") for x in c[start : start + _CHUNK]] for c in columns]
        x = preprocessor(x=tuple(chunk) if len(chunk) > 1 else chunk[0])
        ids = {key: np.asarray(value, "int32") for key, value in x.items() if key != _MASK}
        # A text may hold the token of padding, as RoBERTa's `<pad>`, typed: it is one of the text.
        places = np.arange(1, np.shape(x[_MASK])[1] + 1)
        lengths = (np.asarray(x[_MASK], "int64") * places).max(axis=1, initial=0)
        rows += [
            {key: value[i, :length] for key, value in ids.items()}
            for i, length in enumerate(lengths)
        ]
    return rows


def in_graph(preprocessor: Any) -> Callable[..., Any]:
    """The preprocessor as one TensorFlow graph: twice as fast, once it is traced."""
    traced = tf.function(lambda x: preprocessor(x=x), reduce_retracing=True)

    def call(x: Any) -> Any:
        return traced(tuple(map(tf.constant, x)) if isinstance(x, tuple) else tf.constant(x))

    return call


def pad(preprocessor: Any, rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A batch (n, length) from rows of different lengths, with its padding mask.

    The length is the longest row's, rounded up to a multiple of 8, at most the
    preprocessor's `sequence_length`.
    """
    length = padded_length(preprocessor, max(row["token_ids"].size for row in rows))
    fills = {"token_ids": preprocessor.tokenizer.pad_token_id}
    batch = {
        key: np.full((len(rows), length), fills.get(key, 0), "int32") for key in [*rows[0], _MASK]
    }
    for i, row in enumerate(rows):
        for key, values in row.items():
            batch[key][i, : values.size] = values
        batch[_MASK][i, : row["token_ids"].size] = 1
    return batch


def padded_length(preprocessor: Any, longest: int) -> int:
    """The tokens of a batch with its padding, by its longest row's."""
    return min(-(-int(longest) // _STEP) * _STEP, preprocessor.sequence_length)


def choose_length(preprocessor: Any, table: pa.Table, rows: np.ndarray, most: int) -> int:
    """The sequence length that holds 99% of the texts, a multiple of 8.

    Judged on at most 2,000 of the given rows, evenly spaced.

    Args:
        preprocessor: its `sequence_length` is set to `most` for the count.
        table: with the columns `text` and perhaps `text_pair`.
        rows: indices into `table`.
        most: the most tokens that the backbone takes.
    """
    preprocessor.sequence_length = most
    graph = in_graph(preprocessor)
    return length_for(lambda sample: encode(graph, *texts_of(table, sample)), rows, most)


def length_for(
    of_rows: Callable[[np.ndarray], list[dict[str, np.ndarray]]], rows: np.ndarray, most: int
) -> int:
    """As `choose_length`, by a function from some rows to the arrays of each."""
    sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), 2000)).astype("int64")]
    lengths = [row["token_ids"].size for row in of_rows(sample)]
    wanted = int(np.percentile(lengths, 99, method="inverted_cdf"))
    return min(-(-wanted // _STEP) * _STEP, most)


@dataclasses.dataclass(slots=True, kw_only=True)
class TokenStore:
    """Token ids of every row of a table, memory-mapped, without padding.

    Attributes:
        lengths: int64 (n,), real tokens a row.
    """

    preprocessor: Any
    lengths: np.ndarray
    _offsets: np.ndarray
    _columns: Mapping[str, np.ndarray]

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The padded int32 arrays (len(rows), length) of some rows."""
        spans = [slice(self._offsets[i], self._offsets[i + 1]) for i in rows]
        return pad(
            self.preprocessor,
            [{key: values[span] for key, values in self._columns.items()} for span in spans],
        )


class TokenLabels:
    """Labels of the tokens of rows as the loss wants them, padded as the rows are.

    Args:
        store: of the rows.
    """

    def __init__(self, store: TokenStore) -> None:
        self._lengths, self._preprocessor = store.lengths, store.preprocessor

    def of(self, row: int) -> np.ndarray:
        """Those of one row, without padding; -1 where there is none."""
        raise NotImplementedError

    def __getitem__(self, rows: Any) -> np.ndarray:
        """int32 (len(rows), length): of each token its label, else -1."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self._lengths)))
        length = padded_length(self._preprocessor, self._lengths[rows].max())
        labels = np.full((len(rows), length), -1, "int32")
        for i, row in enumerate(rows.tolist()):
            found = self.of(row)
            labels[i, : len(found)] = found
        return labels


def tokenize(
    preprocessor: Any, table: pa.Table, rows: np.ndarray, folder: Path, digest: str
) -> TokenStore:
    """Tokenises rows of a table once; a later call with the same texts reads the files.

    Args:
        preprocessor: a `keras_hub` preprocessor with its `sequence_length` set.
        table: with the columns `text` and perhaps `text_pair`.
        rows: the rows that will be asked for; the others have a length of 0.
        folder: where the cache lies.
        digest: of the table's texts and of `rows`.
    """
    graph = in_graph(preprocessor)

    def of_rows(chosen: np.ndarray) -> list[dict[str, np.ndarray]]:
        return encode(graph, *texts_of(table, chosen))

    offsets, columns = read_tokens(preprocessor, of_rows, len(table), rows, folder, digest)
    return TokenStore(
        preprocessor=preprocessor, lengths=np.diff(offsets), _offsets=offsets, _columns=columns
    )


def facts_of(preprocessor: Any) -> str:
    """All that decides which tokens a text becomes."""
    tokenizer = preprocessor.tokenizer
    # A name is counted up in a process; what a preset keeps in files is left out.
    config = tokenizer.get_config() | {"name": ""}
    # Byte-pair tokenizers make a list of a set, each process in another order.
    if config.get("unsplittable_tokens"):
        config["unsplittable_tokens"] = sorted(config["unsplittable_tokens"])
    files = tokenizer.get_vocabulary(), getattr(tokenizer, "merges", None)
    facts = [preprocessor.sequence_length, config, *files]
    return json.dumps(facts, default=str, sort_keys=True)


def read_tokens(
    preprocessor: Any,
    of_rows: Callable[[np.ndarray], list[dict[str, np.ndarray]]],
    count: int,
    rows: np.ndarray,
    folder: Path,
    digest: str,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Arrays of tokens, from the files of a former call, or made.

    Args:
        preprocessor: as for `tokenize`.
        of_rows: from some rows to the arrays of each.
        count: rows of the table.
        rows: as for `tokenize`.
        folder: as for `tokenize`.
        digest: as for `tokenize`.

    Returns:
        int64 (count + 1,), where the tokens of each row begin, and by name the arrays of all
        rows behind each other.
    """
    key = f"{digest} {count} {facts_of(preprocessor)}"
    cached = folder / f"tokens-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not cached.exists():
        _write(of_rows, count, np.sort(rows), cached)
    offsets = np.load(cached / "offsets.npy")
    columns: dict[str, np.ndarray] = {}
    for file in cached.glob("*.bin"):
        columns[file.stem] = np.memmap(file, dtype="int32", mode="r")
    return offsets, columns


def _write(
    of_rows: Callable[[np.ndarray], list[dict[str, np.ndarray]]],
    count: int,
    rows: np.ndarray,
    cached: Path,
) -> None:
    lengths = np.zeros(count, "int64")
    with written_whole(cached) as temporary, contextlib.ExitStack() as stack:
        temporary.mkdir()
        files: dict[str, Any] = {}
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            for row, ids in zip(chunk, of_rows(chunk), strict=True):
                lengths[row] = ids["token_ids"].size
                for key, values in ids.items():
                    if key not in files:
                        files[key] = stack.enter_context((temporary / f"{key}.bin").open("wb"))
                    files[key].write(values.tobytes())
        np.save(temporary / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))


def texts_of(table: pa.Table, rows: np.ndarray) -> list[list[str]]:
    """The text columns, one or two, of some rows of a table."""
    names = [name for name in ("text", "text_pair") if name in table.column_names]
    chosen = taken(table.select(names), rows)
    return [chosen[name].to_pylist() for name in names]
