"""One pass over all pictures: which are damaged, which are equal, and nearly equal."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np
import pyarrow as pa
from PIL import Image

from tf_finetune.data.duplicates import Scan
from tf_finetune.data.pictures.decode import Unusable, decode, is_animated, open_picture
from tf_finetune.data.pictures.threads import in_order

ANIMATED = "animated picture"
_THUMBNAIL = 16
_BITS = 64
# Of the bits of two perceptual hashes, so many may differ before two thumbnails are
# compared: 99% of pictures saved again as JPEG of quality 40 keep within it.
_MOST_BITS = 8
_MOST_CELLS = 2**25
_BLOCK = 8192
# Each picture is compared with so many others, those of the nearest hashes.
_MOST_LIKE = 32


@dataclasses.dataclass(slots=True, frozen=True)
class _Seen:
    """What is kept of one picture; `kind` is empty unless it is unusable."""

    kind: str = ""
    digest: bytes = b""
    size: tuple[int, int] = (0, 0)
    animated: bool = False
    bits: np.ndarray | None = None
    thumbnail: np.ndarray | None = None


def scan(table: pa.Table) -> Scan:
    """Decodes every picture of a table once, in threads."""
    count = table.num_rows
    keys, sizes = np.empty(count, np.uint64), np.zeros((2, count), np.int64)
    bits = np.zeros((count, _BITS), bool)
    thumbnails = np.zeros((count, _THUMBNAIL, _THUMBNAIL, 3), np.uint8)
    digest, unusable, animated = hashlib.sha256(), {}, []
    paths = (path.as_py() for path in table["image"])
    for row, seen in enumerate(in_order(_look, paths)):
        own = seen.digest
        if seen.kind:
            unusable[row] = seen.kind
            own = hashlib.blake2b(f"{seen.kind} {row}".encode(), digest_size=16).digest()
        else:
            bits[row], thumbnails[row], sizes[:, row] = seen.bits, seen.thumbnail, seen.size
        if seen.animated:
            animated.append(row)
        digest.update(own)
        keys[row] = int.from_bytes(own[:8], "little")
    return Scan(
        keys=keys,
        sizes={"pixels wide": sizes[0], "pixels high": sizes[1]},
        digest=digest.digest(),
        near=functools.partial(_near, bits, thumbnails, frozenset(unusable)),
        unusable=unusable,
        odd={ANIMATED: np.array(animated, np.int64)},
    )


def _look(path: str) -> _Seen:
    from imagehash import phash  # imports scipy, which takes half a second

    try:
        opened = open_picture(path)
        animated = is_animated(opened)
        image = decode(opened)
    except Unusable as error:
        return _Seen(kind=str(error))
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    digest.update(image.tobytes())
    # Of a large picture a small one shows as much, and takes less time.
    small = image.reduce(max(1, min(image.size) // 128))
    thumbnail = small.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    return _Seen(
        digest=digest.digest(),
        size=image.size,
        animated=animated,
        bits=phash(small).hash.ravel(),
        thumbnail=np.asarray(thumbnail),
    )


def _near(
    bits: np.ndarray,
    thumbnails: np.ndarray,
    unusable: frozenset[int],
    rows: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Pairs of rows that look alike: of hashes within a few bits, and of like thumbnails.

    Args:
        bits: (n, 64) perceptual hashes.
        thumbnails: (n, 16, 16, 3) uint8.
        unusable: rows that are like no other.
        rows: (m,) the rows to search, ascending.
        threshold: 1 less twice the relative difference of two thumbnails, brightness and
            contrast left aside, from which they are alike.

    Returns:
        (p, 2) int64 rows, the lower first; of each row, those with the few that are nearest.
    """
    rows = rows[~np.isin(rows, list(unusable))]
    signs = np.where(bits[rows], 1, -1).astype(np.float32)
    pairs = [np.empty((0, 2), np.int64)]
    step = max(1, _MOST_CELLS // max(1, len(rows)))
    for start in range(0, len(rows), step):
        # Of two vectors of signs, the product is the bits that agree less those that differ.
        agree = signs[start : start + step] @ signs[: start + step].T
        later, earlier = np.nonzero(agree >= _BITS - 2 * _MOST_BITS)
        order = np.lexsort((-agree[later, earlier], later))
        later, earlier = later[order] + start, earlier[order]
        later, earlier = later[earlier < later], earlier[earlier < later]
        nearest = np.arange(len(later)) - np.searchsorted(later, later) < _MOST_LIKE
        found = np.stack([earlier, later], axis=1)[nearest]
        alike = _differences(thumbnails, rows, found) <= (1 - threshold) / 2
        pairs.append(rows[found[alike]])
    return np.concatenate(pairs)


def _differences(thumbnails: np.ndarray, rows: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Relative differences of paired thumbnails, 0 to 1: (p,)."""
    parts = [np.empty(0, np.float32)]
    for start in range(0, len(pairs), _BLOCK):
        a, b = (_plain(thumbnails[rows[side]]) for side in pairs[start : start + _BLOCK].T)
        parts.append(np.sqrt(((a - b) ** 2).sum(axis=1) / 2))
    return np.concatenate(parts)


def _plain(thumbnails: np.ndarray) -> np.ndarray:
    """Vectors of mean 0 and length 1; not a number for even grey, which is like nothing."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(norms < 1, np.nan, norms)
