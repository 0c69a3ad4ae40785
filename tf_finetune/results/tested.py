"""What a model gave for each test row, kept so that runs can be compared row by row."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from tf_finetune.data.content import scan, what
from tf_finetune.data.rows_file import taken
from tf_finetune.errors import UserError
from tf_finetune.whole import written_whole

FILE = "test_outputs.npz"


@dataclasses.dataclass(slots=True, kw_only=True)
class Tested:
    """The test rows of a run, in the order of its table.

    Attributes:
        keys: (n,) uint64, equal for rows of equal text but for case and spaces, or equal pixels.
        labels: as in `evaluate.score`; of tags how many entities are in the row, of responses
            how many tokens.
        outputs: as in `evaluate.score`; of tags and responses counts (n, 3), as
            `tag_scores.row_counts` and `response_scores` have them.
    """

    keys: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray

    def in_order_of_keys(self) -> Tested:
        """The same rows, those of equal text by their labels."""
        labels = self.labels.reshape(len(self.keys), -1)
        order = np.lexsort((*labels.T[::-1], self.keys))
        return Tested(keys=self.keys[order], labels=self.labels[order], outputs=self.outputs[order])


def write(
    folder: Path,
    table: pa.Table,
    rows: np.ndarray,
    labels: np.ndarray,
    outputs: np.ndarray,
    seen: Path | None = None,
) -> None:
    """Keeps them in a run folder.

    Args:
        folder: of the run.
        table: with the texts or pictures.
        rows: of the table, the test rows.
        labels: of these.
        outputs: of these.
        seen: as in `keys_of`.
    """
    keys = keys_of(table, rows, seen)
    with written_whole(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, keys=keys, labels=labels, outputs=outputs)


def keys_of(table: pa.Table, rows: np.ndarray, seen: Path | None = None) -> np.ndarray:
    """The keys of some rows of a table.

    Args:
        table: with the texts or pictures.
        rows: of it.
        seen: where what was seen of its pictures is kept, which are then not decoded again.
    """
    if seen and what(table) == "picture":
        return scan(table, seen).keys[rows]
    return scan(taken(table, rows)).keys


def read(folder: Path) -> Tested:
    """Those of a finished run.

    Raises:
        UserError: if the folder has none, or they cannot be read.
    """
    file = folder / FILE
    if not file.exists():
        raise UserError(
            f'"{folder}" has no {FILE}, from which runs are compared; it was made by an older '
            "version. Train again in another folder."
        )
    try:
        with np.load(file, allow_pickle=False) as found:
            return Tested(**{name: found[name] for name in ("keys", "labels", "outputs")})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f'"{file}" cannot be read: {error}. Copy it again.') from error
