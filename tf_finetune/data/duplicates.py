"""Which rows have the same text, or nearly the same.

Texts are read from the table a batch at a time and never held all at once: what
stays in memory is a few dozen bytes a row.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from tf_finetune.data.rows_file import taken

_BATCH = 4096
_PERMUTATIONS = 128
_RECALL = 0.95
# The search takes about 0.3 ms a text of 230 words.
_MOST_SEARCHED = 200_000
# Chinese and Japanese put no spaces between words, so that each sign is a word there.
_SIGNS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")

Texts = tuple[str, ...]


@dataclasses.dataclass(slots=True, kw_only=True)
class Scan:
    """What one pass over the texts or pictures found.

    Attributes:
        keys: (n,) uint64, equal for rows whose normalised texts, or pixels, are equal.
        sizes: by what they are counted in, (n,) int64: the characters and words of the
            text and its pair together, or a picture's width and height.
        digest: sha256 of the texts or pixels as they stand.
        near: gives the pairs (p, 2) of nearly equal ones among some distinct rows, by the
            least similarity.
        unordered: (n,) uint64 as `keys`, but equal for pairs of texts in either order too; None
            where rows are no pairs.
        unusable: by row, the kind of finding for those that cannot be read.
        odd: by kind of finding, the rows that are usable and may surprise.
    """

    keys: np.ndarray
    sizes: dict[str, np.ndarray]
    digest: bytes
    near: Callable[[np.ndarray, float], np.ndarray]
    unordered: np.ndarray | None = None
    unusable: dict[int, str] = dataclasses.field(default_factory=dict)
    odd: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True, kw_only=True)
class Alike:
    """Which rows are alike.

    Attributes:
        near: (p, 2) int64, pairs of different rows that are nearly equal.
        content: (n,) int64, equal for rows of equal or nearly equal texts or pictures.
        groups: (n,) int64, equal for rows of one group.
        together: (n,) int64, equal for rows that are joined by either.
        note: why near duplicates were not looked for; empty if they were.
    """

    near: np.ndarray
    content: np.ndarray
    groups: np.ndarray
    together: np.ndarray
    note: str


def normalise(text: str) -> str:
    """The text in NFKC form, lower case, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def texts_of(table: pa.Table, rows: np.ndarray | None = None) -> Iterator[Texts]:
    """The text, or the text and its pair, of each row, or of the given rows, in order."""
    table = table.select([name for name in ("text", "text_pair") if name in table.column_names])
    for begin in range(0, table.num_rows if rows is None else len(rows), _BATCH):
        if rows is None:
            some = table.slice(begin, _BATCH)
        else:
            some = taken(table, rows[begin : begin + _BATCH])
        yield from zip(*(column.to_pylist() for column in some.columns), strict=True)


def scan(table: pa.Table) -> Scan:
    """Reads every text once."""
    sizes = np.empty((2, table.num_rows), np.int64)
    keys, unordered = (np.empty(table.num_rows, np.uint64) for _ in range(2))
    digest = hashlib.sha256()
    for row, texts in enumerate(texts_of(table)):
        raw = "\0".join(texts).encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
        sizes[:, row] = sum(map(len, texts)), sum(len(text.split()) for text in texts)
        same = [*map(normalise, texts)]
        keys[row] = _number(same)
        unordered[row] = _number(sorted(same)) if len(same) > 1 else 0
    return Scan(
        keys=keys,
        sizes={"characters": sizes[0], "words": sizes[1]},
        digest=digest.digest(),
        near=lambda rows, threshold: near_duplicates(table, rows, threshold),
        unordered=unordered if "text_pair" in table.column_names else None,
    )


def _number(texts: list[str]) -> int:
    together = "\0".join(texts).encode()
    return int.from_bytes(hashlib.blake2b(together, digest_size=8).digest(), "little")


def firsts(keys: np.ndarray) -> np.ndarray:
    """For each row the first row with an equal key. keys: (n,); returns (n,) int64."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse]


def find_alike(table: pa.Table, scan: Scan, threshold: float) -> Alike:
    """Which rows belong together by content, nearly equal content and group.

    Args:
        table: the rows, perhaps with a column `group`.
        scan: of these rows.
        threshold: least similarity of near duplicates; 0 turns the search off.
    """
    count = table.num_rows
    first = firsts(scan.keys)
    distinct = np.flatnonzero(first == np.arange(count))
    near, note = np.empty((0, 2), np.int64), ""
    if not threshold:
        note = "Near duplicates were not looked for (config.data.near_duplicates=0)."
    elif len(distinct) > _MOST_SEARCHED:
        note = (
            f"Near duplicates were not looked for: there are {len(distinct):,} different rows, "
            f"and the search is made for at most {_MOST_SEARCHED:,}. Exact copies were found."
        )
    else:
        near = scan.near(distinct, threshold)
    groups = np.arange(count)
    if "group" in table.column_names:
        codes = table["group"].combine_chunks().dictionary_encode().indices
        groups = firsts(codes.to_numpy(zero_copy_only=False))
    # A pair of texts in the other order is another row, but tells of the first.
    same = first if scan.unordered is None else firsts(scan.unordered)
    content = clusters(count, np.concatenate([_links(same), near]))
    together = clusters(count, np.concatenate([_links(content), _links(groups)]))
    return Alike(near=near, content=content, groups=groups, together=together, note=note)


def near_duplicates(table: pa.Table, rows: np.ndarray, threshold: float) -> np.ndarray:
    """Pairs of rows whose word 3-grams have at least this Jaccard similarity.

    MinHash proposes candidates and the true similarity decides, so that no pair
    is wrong; one exactly at the threshold is found with a chance of 95%, a more
    similar one nearly always. In a bucket of equal hashes each row is compared
    with the first and with the one before, not with all: many copies of one
    template cost no more than many unlike texts. Of paired texts, both must be
    near duplicates.

    Args:
        table: has a column `text` and perhaps `text_pair`.
        rows: (m,) the rows to search, ascending; best without exact copies.
        threshold: above 0, up to 1.

    Returns:
        (p, 2) int64 rows of the table, the lower first, each pair once.
    """
    sketches = _sketches(table, rows)
    most = [r for r in range(1, _PERMUTATIONS + 1) if _recall(threshold, r) >= _RECALL]
    width = max(most, default=1)
    pairs = [_bucket_mates(sketches[:, i : i + width]) for i in _bands(width)]
    candidates = np.unique(np.concatenate(pairs), axis=0)
    return _verified(table, rows[candidates], threshold)


def clusters(count: int, pairs: np.ndarray) -> np.ndarray:
    """Joins paired rows (p, 2), and what is paired with them: (count,) int64, the lowest each."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(count, count))
    return firsts(connected_components(links, directed=False)[1])


def shingles(text: str) -> set[str]:
    """The word 3-grams of a text; its words if it has fewer than three; itself if none."""
    text = normalise(text)
    words = _WORD.findall(text)
    if len(words) < 3:
        return set(words) or {text}
    return {" ".join(three) for three in zip(words, words[1:], words[2:], strict=False)}


def _links(first: np.ndarray) -> np.ndarray:
    """Pairs (p, 2) of each row with its first one, where that is another."""
    rows = np.flatnonzero(first != np.arange(len(first)))
    return np.stack([first[rows], rows], axis=1)


def _recall(similarity: float, width: int) -> float:
    """The chance that texts this similar share a bucket in at least one band."""
    return 1 - (1 - similarity**width) ** (_PERMUTATIONS // width)


def _bands(width: int) -> range:
    return range(0, _PERMUTATIONS - width + 1, width)


def _sketches(table: pa.Table, rows: np.ndarray) -> np.ndarray:
    """The MinHash values of the rows, (m, permutations) uint32."""
    from datasketch import MinHash  # imports scipy, which takes half a second

    hashed = (
        [zlib.crc32(f"{i} {one}".encode()) for i, one in parts]
        for parts in map(_tagged, texts_of(table, rows))
    )
    # The shingles are hashed already: MinHash takes them as they are.
    made = MinHash.generator(hashed, num_perm=_PERMUTATIONS, hashfunc=lambda value: value)
    sketches = np.empty((len(rows), _PERMUTATIONS), np.uint32)  # they have 32 bits
    for row, sketch in enumerate(made):
        sketches[row] = sketch.hashvalues
    return sketches


def _tagged(texts: Texts) -> list[tuple[int, str]]:
    return [(i, one) for i, text in enumerate(texts) for one in shingles(text)]


def _bucket_mates(band: np.ndarray) -> np.ndarray:
    """Candidate pairs (p, 2): each row with the first and the previous one of equal values."""
    mix = np.random.default_rng(0).integers(2**63, size=band.shape[1], dtype=np.uint64)
    bucket = band @ mix  # modulo 2**64; a chance collision only makes a false candidate
    order = np.argsort(bucket, kind="stable")
    ordered = bucket[order]
    start = np.searchsorted(ordered, ordered)
    later = np.flatnonzero(start < np.arange(len(order)))
    first = np.stack([order[start[later]], order[later]], axis=1)
    previous = np.stack([order[later - 1], order[later]], axis=1)
    return np.concatenate([first, previous])


def _verified(table: pa.Table, pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Those of the pairs (p, 2) that really are as similar as the threshold."""
    kept = np.zeros(len(pairs), bool)
    for begin in range(0, len(pairs), _BATCH):
        some = pairs[begin : begin + _BATCH]
        rows, index = np.unique(some, return_inverse=True)
        found = [[shingles(text) for text in texts] for texts in texts_of(table, rows)]
        for i, (a, b) in enumerate(index.reshape(-1, 2)):
            likes = [_jaccard(x, y) for x, y in zip(found[a], found[b], strict=True)]
            kept[begin + i] = min(likes) >= threshold
    return pairs[kept]


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)
