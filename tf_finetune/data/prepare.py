"""From a source to checked rows in three splits, with a report of what was found."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tf_finetune.config import FineTuneConfig
from tf_finetune.data import checks, content, duplicates
from tf_finetune.data import labels as label_column
from tf_finetune.data.findings import Findings
from tf_finetune.data.report import how_split, write_report
from tf_finetune.data.sources import fraction, read
from tf_finetune.data.splits import SPLITS, assign, nested_order, strata
from tf_finetune.data.tags import Tags, read_tags, repaired
from tf_finetune.data.trainable import refuse_one_value, refuse_what_cannot_train
from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

_OTHER_SPLIT = "other split"
_NUMBERS = ("regression", LANGUAGE)
_STRATA = {
    "regression": "tenth of the targets",
    LANGUAGE: "tenth of the responses by their length",
}
_TARGETS = {"regression": "Targets", LANGUAGE: "Lengths of the responses, in words"}
_SOFT = "A row has shares of several classes; it counts here as one of that with the largest."


@dataclasses.dataclass(slots=True, kw_only=True)
class Prepared:
    """The rows to train on and to measure with.

    Attributes:
        table: all rows that were read, memory-mapped: `text`, `text_pair` and so on, or
            `image`, the absolute path of a picture, in place of both.
        splits: for "train", "validation" and "test", and "retained" where it is given,
            the (m,) int64 rows of the table, ascending. Rows left out are in none.
        labels: for each row of the table; (n,) int32 classes, (n, k) float32
            multi-hot or (n,) float32 targets. Of tagged words multi-hot too, which types of
            entities stand in a row; of responses how many words they have.
        class_names: in the order of the classes; empty where there are none. Of tagged words
            the types of entities.
        findings: what was found wrong.
        report: the data report, Markdown.
        digest: sha256 over the texts or pixels, labels, class names and splits.
        tags: of the words of each row, in token classification.
        shares: for each row of the table, of soft labels, the shares of classes (n, k) float32;
            `labels` are those with the largest.
        joined: how many training rows stand in those of `splits`, where several are packed
            into one; else 0.
    """

    table: pa.Table
    splits: dict[str, np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...]
    findings: Findings
    report: str
    digest: str
    tags: Tags | None = None
    shares: np.ndarray | None = None
    joined: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The rows of the table in each split."""
        found = {name: len(rows) for name, rows in self.splits.items()}
        return found | ({"train": self.joined} if self.joined else {})

    @property
    def targets(self) -> np.ndarray:
        """What a row's output is compared with in training: its shares or its label."""
        return self.labels if self.shares is None else self.shares


def prepare(config: FineTuneConfig, folder: Path, source: Any = None) -> Prepared:
    """Reads, checks and splits the data; the same data and configuration give the same splits.

    Args:
        config: `data` says where the rows are and what to do with what is wrong.
        folder: an existing folder for the table of rows, and for pictures from archives,
            arrays and TensorFlow Datasets.
        source: data handed over in Python, instead of `config.data.path`.

    Returns:
        The prepared rows. Nothing has been written but those, and what was seen of pictures.

    Raises:
        UserError: if the data cannot be trained on or a policy says `error`.
    """
    data, task = config.data, config.model.task
    if source is None and data.train != type(data)().train and not (data.split or data.tfds):
        raise UserError(
            f'config.data.train is "{data.train}", which names rows of config.data.split or '
            "config.data.tfds, and neither is set. The file to train on is config.data.path."
        )
    table, findings = read(data, task, folder, source)
    scan = content.scan(table, folder)
    tags = read_tags(table, data, findings) if task == TOKENS else None
    names, labels, sides, shares = _label(table, task, data, findings, scan, tags)
    noted = tags.note if tags else _SOFT if data.soft_labels else ""
    alike = duplicates.find_alike(table, scan, data.near_duplicates)
    made = _fractions(table, data)
    sides = _split(table, sides, labels, scan.keys, alike.together, made, data.seed)
    if task == LANGUAGE:
        label_ids = content.keys_of(table["label"])
    elif tags:
        label_ids = tags.alike()
    else:
        label_ids = np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    sides = _check(table, sides, label_ids, scan.keys, alike, findings, data, task)
    compared = task in ("classification", "multi_label")
    checks.near_copies(table, sides, alike.near, label_ids if compared else None, findings)
    # A class that never has the largest share is learnt from its smaller ones.
    learnt = labels if shares is None else shares
    refuse_what_cannot_train(sides, learnt, names, made, findings, data, task, tags)
    sides, limited = _limit(sides, labels, names, scan.keys, data)
    if limited:
        refuse_one_value(sides, learnt, names, data, task, tags)
    splits = {name: np.flatnonzero(sides == side) for side, name in enumerate(SPLITS)}
    if not data.retained:
        del splits["retained"]
    report = write_report(
        what=content.what(table),
        splits=splits,
        labels=labels,
        class_names=names,
        scan=scan,
        findings=findings,
        how=how_split(splits, made, data, content.what(table), _STRATA.get(task, "class")),
        notes=[*filter(None, (limited, alike.note, noted))],
        targets=_TARGETS.get(task, ""),
    )
    beside = b"" if shares is None else shares.tobytes()
    beside += tags.digest() if tags else b""
    beside += label_ids.tobytes() if task == LANGUAGE else b""
    return Prepared(
        table=table,
        splits=splits,
        labels=labels,
        class_names=names,
        findings=findings,
        report=report,
        digest=_digest(scan.digest + beside, labels, names, splits),
        tags=tags,
        shares=shares,
    )


def _label(
    table: pa.Table,
    task: str,
    data: DataConfig,
    findings: Findings,
    scan: duplicates.Scan,
    tags: Tags | None,
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray | None]:
    """Class names, labels, sides (-1 for an unknown label or no picture, else 0), and shares."""
    shares = None
    if tags:
        names, labels, known = tags.types, tags.kinds(), tags.known.copy()
    else:
        names = () if task in _NUMBERS else label_column.class_names(table, data)
        if data.soft_labels:
            shares, known = label_column.encode_shares(table, names)
            labels = label_column.with_most(shares, known)
        else:
            labels, known = label_column.encode(table, task, names)
    unknown = np.flatnonzero(~known)
    for row in unknown.tolist() if not tags else ():
        findings.add("unknown label", checks.place(table, row), label_column.told(table, row))
    known[content.find_unusable(table, scan, findings)] = False
    bad = [kind for kind in findings.kinds() if kind != _OTHER_SPLIT]
    findings.enforce(bad, data.bad_rows, "bad_rows")
    for kind in bad:
        findings.act(kind, f"Left out (config.data.bad_rows={data.bad_rows}).")
    repaired(data, findings)
    findings.act(_OTHER_SPLIT, "Left out: these rows belong to none of the three splits.")
    if not known.any():
        raise UserError(
            f"No usable row is left ({findings.summary()}). "
            f"Check config.data.{table.column_names[0]} and config.data.label."
        )
    for kind, rows in scan.odd.items():
        checks.note(findings, kind, table, rows)
        findings.act(kind, "Kept: the first frame counts.")
    return names, labels, np.where(known, 0, checks.LEFT_OUT).astype(np.int8), shares


def _fractions(table: pa.Table, data: DataConfig) -> dict[str, float]:
    """The share of each split that is not given and so is made here."""
    given = set(pc.unique(table["split"]).to_pylist())
    shares = {s: fraction(data, s) for s in ("validation", "test") if s not in given}
    return {split: share for split, share in shares.items() if share}


def _split(
    table: pa.Table,
    sides: np.ndarray,
    labels: np.ndarray,
    keys: np.ndarray,
    together: np.ndarray,
    made: dict[str, float],
    seed: int,
) -> np.ndarray:
    """Given rows keep their split. A row that belongs to one of them trains, the rest is split."""
    given = pc.index_in(table["split"], value_set=pa.array(SPLITS))
    given = pc.fill_null(given, -1).to_numpy().astype(np.int8)
    bound = np.isin(together, together[(given >= 0) & (sides >= 0)])
    free = np.flatnonzero((sides >= 0) & ~bound)
    sides = np.where((sides >= 0) & (given >= 0), given, sides)
    shares = (made.get("validation", 0.0), made.get("test", 0.0))
    stratum = strata(labels[free])
    sides[free] = assign(stratum, together[free], keys[free], shares, seed)
    return sides


def _check(
    table: pa.Table,
    sides: np.ndarray,
    label_ids: np.ndarray,
    keys: np.ndarray,
    alike: duplicates.Alike,
    findings: Findings,
    data: DataConfig,
    task: str,
) -> np.ndarray:
    clusters = {"leak": keys, "near leak": alike.content, "group leak": alike.groups}
    sides = checks.leaks(table, sides, clusters, findings, data)
    if task != LANGUAGE:  # where a prompt may have several good responses
        sides = checks.conflicts(table, sides, keys, label_ids, findings, data)
    return checks.copies(table, sides, keys, label_ids, findings, data)


def _limit(
    sides: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    keys: np.ndarray,
    data: DataConfig,
) -> tuple[np.ndarray, str]:
    rows = np.flatnonzero(sides == 0)
    if not data.limit or data.limit >= len(rows):
        return sides, ""
    if labels.ndim == 1 and data.limit < len(names):
        raise UserError(
            f"config.data.limit is {data.limit}, fewer rows than the {len(names)} classes. "
            f"Give at least {len(names)}, or 0 for all rows."
        )
    order = rows[nested_order(strata(labels[rows]), keys[rows], data.seed)]
    sides = sides.copy()
    sides[order[data.limit :]] = checks.LEFT_OUT
    return sides, f"Of {len(rows):,} training rows {data.limit:,} are used (config.data.limit)."


def _digest(
    contents: bytes, labels: np.ndarray, names: tuple[str, ...], splits: dict[str, np.ndarray]
) -> str:
    digest = hashlib.sha256(contents)
    digest.update(repr((names, labels.shape, labels.dtype.str)).encode())
    digest.update(np.ascontiguousarray(labels).tobytes())
    for name, rows in splits.items():
        digest.update(name.encode() + len(rows).to_bytes(8, "little") + rows.tobytes())
    return digest.hexdigest()
