"""Random changes to training pictures, anew in each epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tf_finetune.data.pictures.threads import in_order
from tf_finetune.settings import DataConfig

_GREY = (128, 128, 128)
_Change = Callable[[Image.Image, float], Image.Image]


@dataclasses.dataclass(slots=True, frozen=True)
class Strength:
    """How far a picture is changed.

    Attributes:
        least_area: share of the picture that a random crop keeps at least.
        operations: of RandAugment, one after the other.
        magnitude: of these, 0 to 1.
        erasing: chance that a random rectangle is overwritten with noise.
    """

    least_area: float = 1.0
    operations: int = 0
    magnitude: float = 0.0
    erasing: float = 0.0


STRENGTHS = {
    "none": Strength(),
    "light": Strength(least_area=0.8, operations=1, magnitude=0.1),
    "medium": Strength(least_area=0.6, operations=2, magnitude=0.3),
    "strong": Strength(least_area=0.4, operations=2, magnitude=0.6, erasing=0.25),
}
"""By `config.data.augment`."""


@dataclasses.dataclass(slots=True, frozen=True)
class PictureNoise:
    """Random crops, RandAugment, random erasing and flips.

    RandAugment (Cubuk et al. 2019, arXiv:1909.13719) draws operations for each picture;
    random erasing is that of Zhong et al. 2017, arXiv:1708.04896. They are Pillow's
    operations and not Keras's layers, which need a hundred times as long on a processor
    and draw the same operations for a whole batch.

    Attributes:
        strength: of everything but flips.
        flip: whether every other picture is mirrored, left for right.
    """

    strength: Strength
    flip: bool

    def __call__(self, batch: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The changed batch, (n, height, width, 3) uint8.

        Args:
            batch: as `PixelStore.batch` gives it; stays as it is.
            generator: which decides everything that is random: a picture's changes follow
                from its state and the picture's place in the batch.
        """
        return self.each(batch, generator.integers(2**63, size=len(batch)).tolist())

    def each(self, batch: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        """The same, of which each picture's changes follow from a seed of its own."""
        changed = in_order(self._change, zip(batch, seeds, strict=True))
        return np.stack(list(changed)) if len(batch) else batch

    def _change(self, given: tuple[np.ndarray, int]) -> np.ndarray:
        pixels, seed = given
        random, strength = np.random.default_rng(seed), self.strength
        image = Image.fromarray(pixels)
        if self.flip and random.random() < 0.5:
            image = ImageOps.mirror(image)
        if strength.least_area < 1:
            image = _crop(image, strength.least_area, random)
        for name in random.choice(list(_OPERATIONS), strength.operations):
            sign = 1 if random.random() < 0.5 else -1
            image = _OPERATIONS[name](image, sign * strength.magnitude)
        changed = np.array(image)
        if random.random() < strength.erasing:
            _erase(changed, random)
        return changed


def picture_noise(data: DataConfig) -> PictureNoise | None:
    """The noise that the settings ask for; None if there is to be none."""
    strength = STRENGTHS[data.augment]
    return PictureNoise(strength, data.flip) if data.flip or strength != Strength() else None


def _crop(image: Image.Image, least_area: float, random: np.random.Generator) -> Image.Image:
    """A part of the picture, of a shape like its own, at its size."""
    area, shape = random.uniform(least_area, 1), np.exp(random.uniform(-0.25, 0.25))
    width = image.width * min(1.0, (area * shape) ** 0.5)
    height = image.height * min(1.0, (area / shape) ** 0.5)
    left = random.uniform(0, image.width - width)
    top = random.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    return image.resize(image.size, Image.Resampling.BILINEAR, box=box)


def _erase(pixels: np.ndarray, random: np.random.Generator) -> None:
    """Overwrites 2% to 33% of the picture, in place."""
    area, shape = random.uniform(0.02, 0.33), np.exp(random.uniform(-1.2, 1.2))
    whole = pixels.shape[:2]
    shares = (area * shape) ** 0.5, (area / shape) ** 0.5
    height, width = (
        max(1, min(extent, round(extent * share)))
        for extent, share in zip(whole, shares, strict=True)
    )
    top, left = random.integers(whole[0] - height + 1), random.integers(whole[1] - width + 1)
    spot = pixels[top : top + height, left : left + width]
    spot[:] = random.integers(0, 256, spot.shape, dtype=np.uint8)


def _affine(*of: float) -> _Change:
    """A shear or shift: the six numbers of the transform at full magnitude, as shares."""

    def change(image: Image.Image, magnitude: float) -> Image.Image:
        a, b, c, d, e, f = (magnitude * number for number in of)
        # Shears leave the middle where it is.
        c, f = c * image.width - b * image.height / 2, f * image.height - d * image.width / 2
        numbers = (1 + a, b, c, d, 1 + e, f)
        return image.transform(
            image.size, Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR, fillcolor=_GREY
        )

    return change


def _rotate(image: Image.Image, magnitude: float) -> Image.Image:
    return image.rotate(30 * magnitude, Image.Resampling.BILINEAR, fillcolor=_GREY)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> _Change:
    return lambda image, magnitude: kind(image).enhance(1 + 0.9 * magnitude)


_OPERATIONS: dict[str, _Change] = {
    "identity": lambda image, _: image,
    "auto contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "rotate": _rotate,
    "solarize": lambda image, m: ImageOps.solarize(image, round(256 * (1 - abs(m)))),
    "posterize": lambda image, m: ImageOps.posterize(image, 8 - round(4 * abs(m))),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear x": _affine(0, 0.3, 0, 0, 0, 0),
    "shear y": _affine(0, 0, 0, 0.3, 0, 0),
    "shift x": _affine(0, 0, 0.45, 0, 0, 0),
    "shift y": _affine(0, 0, 0, 0, 0, 0.45),
}
