"""The small pictures of `report.html`, each inside of the page as a data URI."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tf_finetune.assemble import Setup
from tf_finetune.model.image_task import ImageTask
from tf_finetune.results.grad_cam import NotDrawn, grad_cam

SIDE = 112
# With 15 mistakes, their neighbours and 15 suspected labels a page stays below 2 MB.
_QUALITY = 80
_SHEET_WIDTH = 720
_AUGMENTATION = "augmentation.png"
# What speaks for the choice is so much covered with this.
_HEAT, _MOST_HEAT = np.array([230, 85, 13]), 0.7


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PagePictures:
    """Data URIs of JPEG files.

    Attributes:
        seen: by row of the table, the picture as the network takes it.
        heat: by row of a mistake, where it holds what spoke for the choice.
        places: (height, width) of the maps that `heat` comes from.
        not_drawn: why there is no heat; empty if there is.
        augmentation: what augmentation makes of training pictures; empty without any.
    """

    seen: Mapping[int, str]
    heat: Mapping[int, str]
    places: tuple[int, int]
    not_drawn: str
    augmentation: str


def page_pictures(
    setup: Setup, task: Any, card: Mapping[str, Any], looks: Path
) -> PagePictures | None:
    """Those that a run's page shows; None for a run on texts.

    Args:
        setup: of the run.
        task: that is shipped.
        card: with `mistakes` and perhaps `label_audit`.
        looks: the folder of the contact sheets.
    """
    if not isinstance(task, ImageTask):
        return None
    mistakes = card.get("mistakes") or []
    told = [*mistakes, *(card.get("label_audit") or {}).get("first", ())]
    told += [near for mistake in mistakes for near in mistake["neighbours"]]
    rows = np.unique([one["table_row"] for one in told]).astype(int)
    pixels = setup.examples(rows)
    wrong = [mistake["table_row"] for mistake in mistakes]
    mistaken = pixels[np.searchsorted(rows, wrong)]
    heat, places, why_not = _heat(setup, task, wrong, mistaken)
    sheet = looks / _AUGMENTATION
    return PagePictures(
        seen={int(row): uri(one) for row, one in zip(rows, pixels, strict=True)},
        heat=heat,
        places=places,
        not_drawn=why_not,
        augmentation=_sheet(sheet) if sheet.exists() else "",
    )


def uri(pixels: np.ndarray) -> str:
    """A picture (height, width, 3), its longer side `SIDE`, as a JPEG file in an address."""
    image = Image.fromarray(pixels)
    share = SIDE / max(image.size)
    # Small ones are shown with their pixels.
    how = Image.Resampling.NEAREST if share > 2 else Image.Resampling.BICUBIC
    size = tuple(max(1, round(share * extent)) for extent in image.size)
    return _uri(image.resize(size, how))  # type: ignore[arg-type]


def covered(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture in grey, in orange where `heat` (h, w), 0 to 1, is high."""
    height, width = pixels.shape[:2]
    spread = Image.fromarray(heat.astype("float32")).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    share = _MOST_HEAT * np.asarray(spread)[..., None]
    grey = np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
    return np.round((1 - share) * grey + share * _HEAT).astype(np.uint8)


def _heat(
    setup: Setup, task: ImageTask, rows: Sequence[int], pixels: np.ndarray
) -> tuple[dict[int, str], tuple[int, int], str]:
    """Of some rows and their pictures: see the attributes of `PagePictures`."""
    if not rows:
        return {}, (0, 0), ""
    outputs = np.asarray(task(pixels, training=False))
    if task.kind == "multi_label":  # the label that is furthest off
        outputs = np.abs(outputs - setup.prepared.labels[rows])
    try:
        found = grad_cam(task, pixels, outputs.argmax(axis=1))
    except NotDrawn as reason:
        return {}, (0, 0), str(reason)
    drawn = [uri(covered(one, heat)) for one, heat in zip(pixels, found, strict=True)]
    return dict(zip(rows, drawn, strict=True)), (found.shape[1], found.shape[2]), ""


def _sheet(file: Path) -> str:
    with Image.open(file) as image:
        image.thumbnail((_SHEET_WIDTH, 2 * _SHEET_WIDTH))
        return _uri(image.convert("RGB"))


def _uri(image: Image.Image) -> str:
    written = io.BytesIO()
    image.save(written, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
