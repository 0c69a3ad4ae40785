"""Tags of words, brought into one scheme: IOB2, as B-PER I-PER O."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tf_finetune.data import checks
from tf_finetune.data.findings import MOST_LISTED, Findings
from tf_finetune.data.splits import SPLITS
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

OUTSIDE = "O"
ORPHAN = "I- without begin"
_FORM = re.compile(r"([BIESLU])-(.+)")
# BILOU calls the last word of an entity L, and an only one U.
_SAME = {"L": "E", "U": "S"}
_PREFIXES = "OBIES"
_O, _B, _I, _E, _S = range(5)


@dataclasses.dataclass(slots=True, kw_only=True)
class Tags:
    """The tags of all rows, in IOB2.

    Attributes:
        types: of entities, in order.
        codes: int32, of all words of all rows; `names` says what they stand for.
        offsets: int64 (n + 1,), where the words of each row begin.
        known: bool (n,), whether a row can be used.
        note: how they were written, for people.
    """

    types: tuple[str, ...]
    codes: np.ndarray
    offsets: np.ndarray
    known: np.ndarray
    note: str

    @property
    def names(self) -> tuple[str, ...]:
        """What the codes stand for."""
        return tag_names(self.types)

    def of(self, row: int) -> np.ndarray:
        """The codes of a row's words."""
        return self.codes[self.offsets[row] : self.offsets[row + 1]]

    def kinds(self) -> np.ndarray:
        """float32 (n, types): 1 where a row has an entity of a type."""
        found = np.zeros((len(self.offsets) - 1, len(self.types)), np.float32)
        row = np.repeat(np.arange(len(found)), np.diff(self.offsets))
        inside = self.codes > 0
        found[row[inside], (self.codes[inside] - 1) // 2] = 1
        return found

    def alike(self) -> np.ndarray:
        """int64 (n,), equal for rows of equal tags."""
        numbers: dict[bytes, int] = {}
        rows = range(len(self.offsets) - 1)
        return np.array([numbers.setdefault(self.of(r).tobytes(), len(numbers)) for r in rows])

    def digest(self) -> bytes:
        """SHA-256 of it all."""
        parts = repr(self.types).encode(), self.codes.tobytes(), self.offsets.tobytes()
        return hashlib.sha256(b"".join(parts)).digest()

    def refuse_one_tag(self, rows: np.ndarray) -> None:
        """Raises `UserError` where all words of the training rows have the same tag."""
        found = np.unique(np.concatenate([self.of(row) for row in rows]))
        if len(found) < 2:
            raise UserError(
                f"config.data.label: all words of the {len(rows):,} training rows have the tag "
                f"{self.names[found[0]]}, so there is nothing to learn. Add rows with others, and "
                f"tag words outside of entities {OUTSIDE}."
            )


def tag_names(types: Sequence[str]) -> tuple[str, ...]:
    """`O`, then `B-` and `I-` of each type: 2 t + 1 begins type t, 2 t + 2 goes on with it."""
    return (OUTSIDE, *(f"{prefix}-{one}" for one in types for prefix in "BI"))


def read_tags(table: pa.Table, data: DataConfig, findings: Findings) -> Tags:
    """Reads the tags of a table, in whichever scheme they are written.

    IOB1, IOB2, BIOES and BILOU are known. Where entities begin is told by the tag before;
    an I- that nothing begins is right in IOB1, and else a finding.

    Args:
        table: with `label`, lists of tags, and `words`.
        data: `classes` are the types of entities that may stand there; empty means those of
            the training rows. `bad_rows` says what becomes of rows that are wrong.
        findings: what to add to.

    Raises:
        UserError: if no word belongs to an entity.
    """
    column = table["label"].combine_chunks()
    counts = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype("int64")
    flat = pc.list_flatten(column).dictionary_encode()
    written, places = flat.dictionary.to_pylist(), flat.indices.to_numpy(zero_copy_only=False)
    parts = [_parsed(tag) for tag in written]
    row = np.repeat(np.arange(len(table)), counts)
    types = data.classes or _types(table, parts, places, row, data)
    known = {name: i for i, name in enumerate(types)}
    prefix = np.array([p for p, _ in parts], "int8")[places]
    kind = np.array([known.get(name, -1) for _, name in parts], "int32")[places]
    bad = (prefix < 0) | ((prefix > 0) & (kind < 0))
    _note_unknown(table, findings, np.flatnonzero(bad), offsets, row, (written, places), parts)
    starts = np.zeros(len(row), bool)
    starts[offsets[:-1][counts > 0]] = True
    before, same = np.roll(prefix, 1), np.roll(kind, 1) == kind
    goes_on = ~starts & same & np.isin(before, (_B, _I))
    begins = (prefix == _B) | (prefix == _S) | (np.isin(prefix, (_I, _E)) & ~goes_on)
    orphans = np.flatnonzero(begins & np.isin(prefix, (_I, _E)) & ~bad)
    usable = np.ones(len(table), bool)
    usable[row[bad]] = False
    scheme = _scheme(prefix, goes_on, orphans)
    if scheme != "IOB1" and len(orphans):
        _note_orphans(table, findings, orphans, offsets, row, (written, places))
        if data.bad_rows != "warn":
            usable[row[orphans]] = False
    codes = np.where(bad | (prefix <= 0), 0, np.where(begins, 2 * kind + 1, 2 * kind + 2))
    return Tags(
        types=tuple(types),
        codes=codes.astype("int32"),
        offsets=offsets,
        known=usable,
        note=_note(_as_written(scheme, written), codes, prefix),
    )


def repaired(data: DataConfig, findings: Findings) -> None:
    """Says what was done about entities that nothing begins, where rows with them stay."""
    if data.bad_rows == "warn":
        findings.act(ORPHAN, "Kept: the word begins an entity (config.data.bad_rows=warn).")


def _parsed(tag: str) -> tuple[int, str]:
    """A place in `_PREFIXES`, -1 for no tag at all, and the type of the entity."""
    if tag == OUTSIDE:
        return _O, ""
    found = _FORM.fullmatch(tag)
    return (_PREFIXES.index(_SAME.get(found[1], found[1])), found[2]) if found else (-1, "")


def _types(
    table: pa.Table,
    parts: list[tuple[int, str]],
    places: np.ndarray,
    row: np.ndarray,
    data: DataConfig,
) -> tuple[str, ...]:
    """Those of the training rows, by the alphabet."""
    ours = pc.is_in(table["split"], pa.array(["", SPLITS[0]])).to_numpy(zero_copy_only=False)
    found = np.unique(places[ours[row]])
    types = sorted({parts[i][1] for i in found if parts[i][0] > 0})
    if not types:
        forms = "config.data.label: no word of the training rows belongs to an entity: "
        forms += "all tags are O" if any(p == _O for p, _ in parts) else "no tag is O, B-TYPE, ..."
        raise UserError(
            f'{forms} (column "{data.label}"; in CoNLL files the last one). Tag the words of an '
            "entity as B-PER I-PER and all others O."
        )
    return tuple(types)


def _scheme(prefix: np.ndarray, goes_on: np.ndarray, orphans: np.ndarray) -> str:
    if np.isin(prefix, (_E, _S)).any():
        return "BIOES"
    # In IOB1 a B- stands only where an entity follows another of its type.
    plain = bool(((prefix == _B) & ~goes_on).any())
    return "IOB1" if len(orphans) and not plain else "IOB2"


def _as_written(scheme: str, written: Sequence[str]) -> str:
    """BILOU is read as BIOES by other letters."""
    return "BILOU" if scheme == "BIOES" and any(t[:2] in ("L-", "U-") for t in written) else scheme


def _note(scheme: str, codes: np.ndarray, prefix: np.ndarray) -> str:
    entities = int((codes % 2 == 1).sum())
    text = f"Tags are {scheme}; {len(codes):,} words, {entities:,} entities."
    if scheme == "IOB2":
        return text
    as_written = np.where(codes > 0, 2 - codes % 2, 0)
    changed = int((as_written != prefix).sum())
    return f"{text} They were converted to IOB2, which changed {changed:,} tags."


def _note_unknown(
    table: pa.Table,
    findings: Findings,
    wrong: np.ndarray,
    offsets: np.ndarray,
    row: np.ndarray,
    tags: tuple[list[str], np.ndarray],
    parts: list[tuple[int, str]],
) -> None:
    written, places = tags
    for i in wrong.tolist():
        # One that has the form of a tag is of a type that is not among the known ones.
        kind = "unknown tag" if parts[places[i]][0] < 0 else "unknown label"
        _tell(findings, kind, table, i, offsets, row, written[places[i]])


def _note_orphans(
    table: pa.Table,
    findings: Findings,
    orphans: np.ndarray,
    offsets: np.ndarray,
    row: np.ndarray,
    tags: tuple[list[str], np.ndarray],
) -> None:
    written, places = tags
    for i in orphans.tolist():
        _tell(findings, ORPHAN, table, i, offsets, row, written[places[i]])


def _tell(
    findings: Findings,
    kind: str,
    table: pa.Table,
    i: int,
    offsets: np.ndarray,
    row: np.ndarray,
    tag: str,
) -> None:
    """Adds a finding on word `i`, of which the first ones are told in full."""
    at = int(row[i])
    if findings.count(kind) >= MOST_LISTED:
        findings.add(kind, "", row=at)
        return
    number = i - int(offsets[at])
    word = table["words"][at][number].as_py()
    findings.add(kind, checks.place(table, at), f"{tag} of {word} (word {number + 1})", row=at)
