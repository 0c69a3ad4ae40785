"""What stands where it should not: leaks between splits, conflicts, copies, absent classes.

Each check takes `sides`, (n,) int8: an index into `SPLITS` for each row, or -1 for a row
that is left out. It notes what it finds, enforces the policy and returns new sides.
"""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa

from tf_finetune.data.duplicates import firsts
from tf_finetune.data.findings import MOST_LISTED, Findings
from tf_finetune.data.labels import count_classes
from tf_finetune.data.splits import RANKS, SPLITS
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

LEFT_OUT = -1
_TOGETHER = (
    "Rows of one group or of (nearly) equal content stay together: see config.data.group and "
    "config.data.near_duplicates."
)


def note(
    findings: Findings,
    kind: str,
    table: pa.Table,
    rows: np.ndarray,
    others: np.ndarray | None = None,
) -> None:
    """Adds a finding for each row, with what it holds, and for some kinds the row it is like.

    Args:
        findings: what to add to.
        kind: of finding.
        table: has `text` or `image`, `file` and `row`.
        rows: (m,) int64.
        others: (m,) int64, for each row the one it is like.
    """
    for i, row in enumerate(rows.tolist()):
        like = -1 if others is None else int(others[i])
        if i >= MOST_LISTED:
            findings.add(kind, "", row=row, like=like)
            continue
        where = place(table, row)
        if like >= 0:
            other = place(table, like)
            here, there = where.rpartition(":"), other.rpartition(":")
            where += f" like row {there[2]}" if here[0] == there[0] else f" like {other}"
        findings.add(kind, where, content(table, row), row=row, like=like)


def content(table: pa.Table, row: int) -> str:
    """The row's text, or its picture's path where that says more than `place`."""
    if "text" in table.column_names:
        return table["text"][row].as_py()
    path = table["image"][row].as_py()
    return "" if path == os.path.abspath(table["file"][row].as_py()) else path


def place(table: pa.Table, row: int) -> str:
    """`FILE:ROW`, where a row of the table comes from."""
    return f"{table['file'][row].as_py()}:{table['row'][row].as_py()}"


def leaks(
    table: pa.Table,
    sides: np.ndarray,
    clusters: dict[str, np.ndarray],
    findings: Findings,
    config: DataConfig,
) -> np.ndarray:
    """Finds training rows that also stand in another split, and validation rows in test.

    Args:
        table: the rows.
        sides: (n,) int8.
        clusters: for each kind of leak an (n,) array, equal for rows that must not
            stand on two sides. A row counts for the first kind that finds it.
        findings: what to add to.
        config: `leaks` is the policy.

    Returns:
        The new sides. Dropped is the row of the split that matters less: test rows
        never, validation rows where the same stands in test, retained rows where it
        stands in either.
    """
    ranks = RANKS[sides]
    leaking = np.zeros(len(sides), bool)
    for kind, cluster in clusters.items():
        _, index = np.unique(cluster, return_inverse=True)
        top = np.full(len(index), LEFT_OUT, np.int8)
        np.maximum.at(top, index, ranks)
        witness = np.zeros(len(index), np.int64)
        held = np.flatnonzero(ranks == top[index])[::-1]
        witness[index[held]] = held
        new = (ranks >= 0) & (ranks < top[index]) & ~leaking
        rows = np.flatnonzero(new)
        note(findings, kind, table, rows, witness[index[rows]])
        leaking |= new
    findings.enforce(tuple(clusters), config.leaks, "leaks")
    return _remove(sides, leaking, findings, tuple(clusters), config.leaks, "leaks")


def conflicts(
    table: pa.Table,
    sides: np.ndarray,
    keys: np.ndarray,
    label_ids: np.ndarray,
    findings: Findings,
    config: DataConfig,
) -> np.ndarray:
    """Finds texts or pictures that stand with unequal labels; dropped are all their training rows.

    Args:
        table: the rows.
        sides: (n,) int8.
        keys: (n,) uint64, equal for equal texts or pictures.
        label_ids: (n,) int64, equal for equal labels.
        findings: what to add to.
        config: `conflicts` is the policy.

    Returns:
        The new sides.
    """
    rows = np.flatnonzero(sides >= 0)
    first = firsts(keys[rows])
    unlike = label_ids[rows] != label_ids[rows][first]
    conflicting = np.zeros(len(rows), bool)
    conflicting[first[unlike]] = True
    found, witness = rows[conflicting[first]], rows[first[conflicting[first]]]
    for side, name in enumerate(SPLITS):
        kind = "label conflict" if name == "train" else f"label conflict in {name}"
        here = sides[found] == side
        note(findings, kind, table, found[here], witness[here])
        findings.act(kind, "Kept: rows of this split are never changed for their labels.")
    kind = "label conflict"
    findings.enforce(kind, config.conflicts, "conflicts")
    mask = np.zeros(len(sides), bool)
    mask[found] = True
    return _remove(sides, mask & (sides == 0), findings, (kind,), config.conflicts, "conflicts")


def copies(
    table: pa.Table,
    sides: np.ndarray,
    keys: np.ndarray,
    label_ids: np.ndarray,
    findings: Findings,
    config: DataConfig,
) -> np.ndarray:
    """Finds rows whose content and label stood before in the same split.

    Args:
        table: the rows.
        sides: (n,) int8.
        keys: (n,) uint64, equal for equal texts or pictures.
        label_ids: (n,) int64, equal for equal labels.
        findings: what to add to.
        config: `duplicates` is the policy, on training rows only.

    Returns:
        The new sides.
    """
    # Content and label in one number, modulo 2**64.
    both = keys + label_ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    found = {}
    for side, name in enumerate(SPLITS):
        kind = "exact duplicate" if name == "train" else f"exact duplicate in {name}"
        rows = np.flatnonzero(sides == side)
        first = firsts(both[rows])
        again = first != np.arange(len(rows))
        found[name] = rows[again]
        note(findings, kind, table, rows[again], rows[first[again]])
        findings.act(kind, "Kept: rows of this split are never changed for their copies.")
    kind = "exact duplicate"
    findings.enforce(kind, config.duplicates, "duplicates")
    mask = np.zeros(len(sides), bool)
    mask[found["train"]] = True
    return _remove(sides, mask, findings, (kind,), config.duplicates, "duplicates")


def near_copies(
    table: pa.Table,
    sides: np.ndarray,
    pairs: np.ndarray,
    label_ids: np.ndarray | None,
    findings: Findings,
) -> None:
    """Notes rows that are nearly equal, in one split or under other labels; none is removed.

    Args:
        table: the rows.
        sides: (n,) int8.
        pairs: (p, 2) int64 of nearly equal rows, the earlier first.
        label_ids: (n,) int64, equal for equal labels; None where nearly equal rows may well
            have others, as in regression.
        findings: what to add to.
    """
    pairs = pairs[(sides[pairs] >= 0).all(axis=1)]
    unlike = np.zeros(len(pairs), bool)
    if label_ids is not None:
        unlike = label_ids[pairs[:, 0]] != label_ids[pairs[:, 1]]
    alike = ~unlike & (sides[pairs[:, 0]] == sides[pairs[:, 1]])
    for kind, found, why in (
        ("near duplicate", alike, "they stand in one split, and are not exact copies."),
        ("near label conflict", unlike, "look at both, for one of the labels may be wrong."),
    ):
        rows, index = np.unique(pairs[found, 1], return_index=True)
        note(findings, kind, table, rows, pairs[found, 0][index])
        findings.act(kind, f"Kept: {why}")


def absent_classes(
    sides: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    made: dict[str, float],
    findings: Findings,
) -> None:
    """Finds classes without a row in validation, test or retained.

    Args:
        sides: (n,) int8.
        labels: (n,) int classes or (n, k) multi-hot; anything if `names` is empty.
        names: the classes; empty for regression.
        made: the fraction of each split that was made here.
        findings: where a given split, or a multi-label one, lacks a class.

    Raises:
        UserError: if a split made here lacks a class, or one but retained has no row at all.
    """
    for side, split in enumerate(SPLITS[1:], start=1):
        rows = sides == side
        if not rows.any():
            if made.get(split):
                raise UserError(
                    f"config.data.{split} is {made[split]:g} of {len(sides):,} rows, which leaves "
                    f"no row for it. Raise the fraction or add rows. {_TOGETHER}"
                )
            if split != "retained":
                raise UserError(
                    f"config.data.{split}: no row of the {split} split is left "
                    f"({findings.summary()}). Give rows that stand in no other split, or a "
                    "fraction, as 0.1, that is cut from the training rows."
                )
            continue
        counts = count_classes(labels[rows], len(names)) if names else np.ones(0)
        for code in np.flatnonzero(counts == 0).tolist():
            if made.get(split) and labels.ndim == 1:
                total = int((labels[sides >= 0] == code).sum())
                raise UserError(
                    f"config.data.{split} is {made[split]:g}, which leaves no row of class "
                    f'"{names[code]}" ({total} rows in all) in the {split} split. Raise it, add '
                    "rows of that class, or leave it out: list the others in "
                    f"config.data.classes and pass --config.data.bad_rows=drop. {_TOGETHER}"
                )
            findings.add(f"class absent from {split}", names[code])


def _remove(
    sides: np.ndarray,
    mask: np.ndarray,
    findings: Findings,
    kinds: tuple[str, ...],
    policy: str,
    option: str,
) -> np.ndarray:
    if policy != "drop":
        for kind in kinds:
            findings.act(kind, f"Kept (config.data.{option}={policy}).")
        return sides
    for kind in kinds:
        findings.act(kind, f"Left out (config.data.{option}=drop).")
    return np.where(mask, np.int8(LEFT_OUT), sides)
