"""Contact sheets: what was found in the pictures, and what augmentation makes of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tf_finetune.data.labels import in_words
from tf_finetune.data.pictures.augment import PictureNoise, picture_noise
from tf_finetune.data.pictures.decode import Unusable, decode, open_picture, resize
from tf_finetune.data.pictures.store import Look
from tf_finetune.data.prepare import Prepared
from tf_finetune.settings import DataConfig
from tf_finetune.whole import written_whole

_SIDE = 160
_CAPTION = 30
_LETTERS = 26
_COLUMNS = 6
_AUGMENTED = 8
_MOST_SHOWN = 30
_MOST_CLASSES = 100
_BACKGROUND, _INK = "white", "black"

Tile = tuple[str, str]
"""The path of a picture, and what is written below it."""


def write_looks(
    prepared: Prepared, data: DataConfig, folder: Path, look: Look | None = None
) -> dict[str, Path]:
    """Writes a sheet of training pictures, of each finding, and of augmentation if there is any.

    Args:
        prepared: rows that are pictures.
        data: for `augment` and `flip`.
        folder: for the sheets, PNG files; made if it is not there.
        look: as the network sees pictures, which augmentation is shown on.

    Returns:
        The file of each sheet by its title: `training pictures`, `near duplicate`, ...,
        `augmentation`. Beside them, `findings.csv` lists each picture that was found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _list(prepared, folder / "findings.csv")
    sheets = {"training pictures": sheet(_training(prepared))}
    for kind in prepared.findings.kinds():
        pairs = prepared.findings[kind].rows
        # Each stands beside the one that it is like.
        shown = [row for one, like in pairs[:_MOST_SHOWN] for row in (one, like) if row >= 0]
        tiles = [_tile(prepared, row) for row in shown]
        if tiles:
            sheets[kind] = sheet(tiles)
    if noise := picture_noise(data):
        sheets["augmentation"] = _augmentation(
            prepared, noise, data.seed, look or Look(size=(_SIDE, _SIDE))
        )
    written = {}
    for title, made in sheets.items():
        written[title] = folder / f"{title.replace(' ', '-')}.png"
        with written_whole(written[title]) as temporary:
            made.save(temporary, "PNG")
    return written


def _list(prepared: Prepared, file: Path) -> None:
    """Writes kind, picture, and the picture that it is like, of every finding."""
    paths = prepared.table["image"]
    with written_whole(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["finding", "image", "like"])
        for kind in prepared.findings.kinds():
            for row, like in prepared.findings[kind].rows:
                other = paths[like].as_py() if like >= 0 else ""
                writer.writerow([kind, paths[row].as_py(), other])


def sheet(tiles: Sequence[Tile], columns: int = _COLUMNS) -> Image.Image:
    """Pictures in rows, each with its caption; one that cannot be read is a crossed box."""
    return _laid_out([(_thumbnail(path), caption) for path, caption in tiles], columns)


def _laid_out(tiles: Sequence[tuple[Image.Image, str]], columns: int) -> Image.Image:
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    width, height = _SIDE + 8, _SIDE + _CAPTION + 8
    made = Image.new("RGB", (columns * width, rows * height), _BACKGROUND)
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(11)
    for i, (image, caption) in enumerate(tiles):
        left, top = i % columns * width + 4, i // columns * height + 4
        made.paste(image, (left + (_SIDE - image.width) // 2, top + (_SIDE - image.height) // 2))
        lines = "\n".join(line[-_LETTERS:] for line in caption.splitlines()[:2])
        draw.multiline_text((left, top + _SIDE + 1), lines, fill=_INK, font=font, spacing=2)
    return made


def _thumbnail(path: str) -> Image.Image:
    try:
        image = decode(open_picture(path), (_SIDE, _SIDE))
    except Unusable as error:
        image = Image.new("RGB", (_SIDE, _SIDE), "gainsboro")
        draw = ImageDraw.Draw(image)
        draw.line((0, 0, _SIDE, _SIDE), fill="grey")
        draw.line((0, _SIDE, _SIDE, 0), fill="grey")
        draw.text((4, 4), str(error), fill=_INK, font=ImageFont.load_default(11))
        return image
    # Small ones are shown with their pixels.
    how = Image.Resampling.NEAREST if max(image.size) < _SIDE / 2 else Image.Resampling.BICUBIC
    return ImageOps.contain(image, (_SIDE, _SIDE), how)


def _tile(prepared: Prepared, row: int) -> Tile:
    path = prepared.table["image"][row].as_py()
    label = in_words(prepared.table["label"][row].as_py())
    return path, f"{label}\n{Path(path).name}"


def _training(prepared: Prepared) -> list[Tile]:
    """Pictures of each class in turn; of regression, from the least to the greatest target."""
    rows = prepared.splits["train"]
    labels = prepared.labels[rows]
    if labels.ndim == 2 or not prepared.class_names:
        values = labels if labels.ndim == 1 else labels @ np.arange(1, labels.shape[1] + 1)
        order = np.argsort(values, kind="stable")
        chosen = order[np.linspace(0, len(order) - 1, min(len(order), 24)).astype(int)]
        return [_tile(prepared, row) for row in rows[chosen].tolist()]
    each = max(1, 24 // len(prepared.class_names))
    chosen = np.concatenate(
        [rows[labels == code][:each] for code in range(len(prepared.class_names))][:_MOST_CLASSES]
    )
    return [_tile(prepared, row) for row in chosen.tolist()]


def _augmentation(prepared: Prepared, noise: PictureNoise, seed: int, look: Look) -> Image.Image:
    """A training picture a row: as it is, then as five epochs might see it."""
    rows = prepared.splits["train"]
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _AUGMENTED)).astype(int)].tolist()
    paths = [prepared.table["image"][row].as_py() for row in chosen]
    height, width = (max(1, side * _SIDE // max(look.size)) for side in look.size)
    batch = np.stack(
        [
            resize(decode(open_picture(path)), (height, width), look.interpolation, look.how)
            for path in paths
        ]
    )
    epochs = [noise(batch, np.random.default_rng([seed, i])) for i in range(_COLUMNS - 1)]
    tiles = []
    for i, row in enumerate(chosen):
        tiles.append((Image.fromarray(batch[i]), _tile(prepared, row)[1]))
        tiles += [(Image.fromarray(one[i]), f"epoch {e + 1}") for e, one in enumerate(epochs)]
    return _laid_out(tiles, _COLUMNS)
