"""Pictures at the size of the model's input, decoded once where there is room."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tf_finetune.data.pictures.decode import Unusable, decode, open_picture, resize
from tf_finetune.data.pictures.threads import in_order
from tf_finetune.errors import UserError
from tf_finetune.whole import written_whole

# Decoded pixels are kept up to this many bytes, if they leave half of the disk's room.
_MOST_KEPT = 8 * 2**30


@dataclasses.dataclass(slots=True, kw_only=True)
class Look:
    """How a picture becomes the model's input; see `decode.resize`.

    Attributes:
        size: (height, width).
        interpolation: of resizing.
        how: `crop`, `squash` or `pad`.
    """

    size: tuple[int, int]
    interpolation: str = "bilinear"
    how: str = "crop"

    def of(self, path: str) -> np.ndarray:
        """The picture in a file, (height, width, 3) uint8.

        Raises:
            UserError: if there is none.
        """
        try:
            image = decode(open_picture(path), self.size)
        except Unusable as error:
            raise UserError(
                f'"{path}": {error}. It was readable when the data were checked; put it back, or '
                "start again in another run folder."
            ) from None
        return resize(image, self.size, self.interpolation, self.how)


class PixelStore:
    """The pixels of numbered pictures: kept if `kept` is given, else decoded at each call.

    Attributes:
        lengths: (n,) int64 ones: no picture is longer than another.
        ahead: see `pipeline.Store`.
    """

    def __init__(
        self, paths: Sequence[str], look: Look, rows: np.ndarray, kept: np.ndarray | None = None
    ) -> None:
        """Prepares for `batch`.

        Args:
            paths: of the n pictures.
            look: that they get.
            rows: those that will be asked for, ascending; the others are black.
            kept: (len(rows), height, width, 3) uint8, if they have been decoded before.
        """
        self.lengths = np.ones(len(paths), np.int64)
        # While one batch is put together, the next one is decoded.
        self.ahead = 2
        self._paths, self._look, self._kept = paths, look, kept
        self._place = np.full(len(paths), -1)
        self._place[rows] = np.arange(len(rows))

    def batch(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), height, width, 3) uint8, in the order of the rows."""
        pixels = np.zeros((len(rows), *self._look.size, 3), np.uint8)
        there = np.flatnonzero(self._place[rows] >= 0)
        if self._kept is not None:
            pixels[there] = self._kept[self._place[rows[there]]]
            return pixels
        paths = [self._paths[row] for row in rows[there].tolist()]
        for i, decoded in zip(there, in_order(self._look.of, paths), strict=True):
            pixels[i] = decoded
        return pixels


def pixel_store(
    table: pa.Table, rows: np.ndarray, folder: Path, digest: str, look: Look
) -> PixelStore:
    """The pictures of a table; small ones are decoded once, and read from a file later.

    Args:
        table: with the column `image`.
        rows: the rows that will be asked for; the others are black.
        folder: where decoded pixels are kept.
        digest: of the table's pictures and of `rows`.
        look: that the pictures get.

    Raises:
        UserError: if a picture cannot be decoded any more.
    """
    paths, rows = table["image"].to_pylist(), np.sort(rows)
    shape = (len(rows), *look.size, 3)
    key = json.dumps([digest, len(table), dataclasses.asdict(look)], sort_keys=True)
    cached = folder / f"pixels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if not cached.exists():
        needed = int(np.prod(shape))
        if needed > min(_MOST_KEPT, shutil.disk_usage(folder).free // 2):
            return PixelStore(paths, look, rows)
        with written_whole(cached, needed) as temporary:
            kept = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            for i, pixels in enumerate(in_order(look.of, [paths[row] for row in rows.tolist()])):
                kept[i] = pixels
            kept.flush()
            del kept
    return PixelStore(paths, look, rows, np.load(cached, mmap_mode="r"))
