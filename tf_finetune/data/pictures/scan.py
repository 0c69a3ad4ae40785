"""One pass over all pictures: which are damaged, which are equal, and nearly equal."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
from PIL import Image

from tf_finetune.data.duplicates import Scan
from tf_finetune.data.pictures.decode import KINDS, Unusable, decode, is_animated, open_picture
from tf_finetune.data.pictures.threads import in_order
from tf_finetune.whole import written_whole

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


# What is kept of one picture. The kind is that of KINDS, counted from 1; 0 for usable.
_SEEN = np.dtype(
    [
        ("kind", np.uint8),
        ("digest", np.uint8, 16),
        ("size", np.int64, 2),
        ("animated", bool),
        ("bits", bool, _BITS),
        ("thumbnail", np.uint8, (_THUMBNAIL, _THUMBNAIL, 3)),
    ]
)


def scan(table: pa.Table, folder: Path | None = None) -> Scan:
    """Decodes every picture of a table once, in threads.

    Args:
        table: with the column `image`.
        folder: keeps what was seen, for the next time if no file has changed until then.
    """
    seen = _kept(table["image"].to_pylist(), folder)
    unusable = {row: KINDS[seen["kind"][row] - 1] for row in np.flatnonzero(seen["kind"]).tolist()}
    return Scan(
        keys=seen["digest"][:, :8].copy().view(np.uint64).ravel(),
        sizes={"pixels wide": seen["size"][:, 0], "pixels high": seen["size"][:, 1]},
        digest=hashlib.sha256(seen["digest"].tobytes()).digest(),
        near=functools.partial(_near, seen["bits"], seen["thumbnail"], frozenset(unusable)),
        unusable=unusable,
        odd={ANIMATED: np.flatnonzero(seen["animated"])},
    )


def _kept(paths: list[str], folder: Path | None) -> np.ndarray:
    """What is seen of all pictures, (n,) of `_SEEN`: from the folder, or by looking."""
    file = folder / f"looked-{_state(paths)}.npy" if folder else None
    if file and file.exists():
        return np.load(file)
    seen = np.zeros(len(paths), _SEEN)
    for row, one in enumerate(in_order(_look, paths)):
        seen[row] = one
        if one["kind"]:  # equal to no other
            own = hashlib.blake2b(f"{one['kind']} {row}".encode(), digest_size=16).digest()
            seen["digest"][row] = np.frombuffer(own, np.uint8)
    if file:
        # Without it the pictures are looked at again the next time.
        with (
            contextlib.suppress(OSError),
            written_whole(file) as temporary,
            temporary.open("wb") as out,
        ):
            np.save(out, seen)
    return seen


def _state(paths: list[str]) -> str:
    """Changes when one of the files does, or the library that decodes them."""
    digest = hashlib.sha256(f"{PIL.__version__} {_SEEN}".encode())
    for path in paths:
        state = None
        with contextlib.suppress(OSError, ValueError):
            found = os.stat(path)
            state = found.st_size, found.st_mtime_ns, found.st_mode
        digest.update(f"{path} {state}\n".encode())
    return digest.hexdigest()[:16]


def _look(path: str) -> np.ndarray:
    from imagehash import phash  # imports scipy, which takes half a second

    seen = np.zeros((), _SEEN)
    try:
        opened = open_picture(path)
        seen["animated"] = is_animated(opened)
        image = decode(opened)
    except Unusable as error:
        seen["kind"] = KINDS.index(str(error)) + 1
        return seen
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    digest.update(image.tobytes())
    # Of a large picture a small one shows as much, and takes less time.
    small = image.reduce(max(1, min(image.size) // 128))
    seen["digest"] = np.frombuffer(digest.digest(), np.uint8)
    seen["size"] = image.size
    seen["bits"] = phash(small).hash.ravel()
    seen["thumbnail"] = small.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR)
    return seen


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
