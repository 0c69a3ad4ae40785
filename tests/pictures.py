"""Pictures small enough for unit tests, whose classes one can learn by colour and shape."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("circle", "square", "triangle", "stripes")


def picture(kind: int, seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """One of a kind: its colour and shape tell the kind, background and place the seed.

    Args:
        kind: of picture; any number, each has a colour of its own.
        seed: another one gives another picture, which is no near duplicate.
        size: (width, height).
    """
    random = np.random.default_rng([kind, seed])
    patches = random.integers(0, 160, (4, 4, 3), dtype=np.uint8)
    made = Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)
    hue = (kind * 0.381966 + random.uniform(-0.03, 0.03)) % 1
    colour = tuple(int(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, 1.0))
    side = min(size) * random.uniform(0.4, 0.6)
    left, top = (random.uniform(0, extent - side) for extent in size)
    _draw(ImageDraw.Draw(made), kind % len(CLASSES), (left, top, left + side, top + side), colour)
    return made


def folder_of_pictures(
    tmp_path: Path,
    classes: tuple[str, ...] = CLASSES[:2],
    count: int = 10,
    size: tuple[int, int] = (48, 40),
    *,
    suffix: str = ".png",
    seed: int = 0,
) -> Path:
    """`tmp_path/pictures/CLASS/NNNN.png`: pictures that a small network tells apart.

    Args:
        tmp_path: an existing folder.
        classes: a name for each.
        count: pictures of each class.
        size: (width, height).
        suffix: `.png`, `.jpg`, ...: the format.
        seed: another one gives other pictures.

    Returns:
        The folder.
    """
    folder = tmp_path / "pictures"
    for kind, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            made = picture(kind, seed * 100_000 + number, size)
            made.save(folder / name / f"{number:04d}{suffix}")
    return folder


def arrays_of_pictures(
    classes: int = 2, count: int = 10, size: tuple[int, int] = (48, 40), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """(n, height, width, 3) uint8 pictures and their (n,) int64 classes, in turn."""
    labels = np.arange(classes * count) % classes
    numbers = seed * 100_000 + np.arange(classes * count) // classes
    made = [
        np.asarray(picture(kind, number, size))
        for kind, number in zip(labels.tolist(), numbers.tolist(), strict=True)
    ]
    return np.stack(made), labels


def _draw(
    draw: ImageDraw.ImageDraw,
    shape: int,
    box: tuple[float, float, float, float],
    colour: tuple[int, ...],
) -> None:
    left, top, right, bottom = box
    if shape == 0:
        draw.ellipse(box, fill=colour)
    elif shape == 1:
        draw.rectangle(box, fill=colour)
    elif shape == 2:
        draw.polygon([(left, bottom), (right, bottom), ((left + right) / 2, top)], fill=colour)
    else:
        height = (bottom - top) / 5
        for i in (0, 2, 4):
            draw.rectangle((left, top + i * height, right, top + (i + 1) * height), fill=colour)
