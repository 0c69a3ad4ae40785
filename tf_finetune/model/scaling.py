"""Pixels as a checkpoint wants them: the numbers that it was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_finetune.errors import UserError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """From pixels of 0 to 255, red first, to what a backbone takes: `pixel * scale + offset`.

    Attributes:
        scale: for each channel.
        offset: for each channel.
        flip: blue comes first; `scale` and `offset` are in that order then.
    """

    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    flip: bool = False


@keras.saving.register_keras_serializable("tf_finetune")
class PixelScaling(keras.layers.Layer):
    """A `Scaling` inside the graph, in float32 whatever the backbone computes in."""

    def __init__(self, scale: Any, offset: Any, flip: bool, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs})
        self.scale, self.offset, self.flip = tuple(scale), tuple(offset), flip

    def call(self, pixels: keras.KerasTensor) -> keras.KerasTensor:
        """(n, height, width, 3), of the same shape."""
        pixels = ops.flip(pixels, axis=-1) if self.flip else pixels
        return pixels * np.asarray(self.scale, "float32") + np.asarray(self.offset, "float32")

    def get_config(self) -> dict:
        own = {"scale": self.scale, "offset": self.offset, "flip": self.flip}
        return {**super().get_config(), **own}


def scaling_of(preprocess: Callable[[np.ndarray], Any], name: str) -> Scaling:
    """The scaling that a function does, found by what it makes of black and three colours.

    Args:
        preprocess: from float32 pixels (n, height, width, 3) to numbers of that shape.
        name: of the backbone, for a message.

    Raises:
        UserError: if it does anything else.
    """

    def of(pixels: np.ndarray) -> np.ndarray:
        # Some functions write into what they are given.
        return np.asarray(preprocess(pixels.astype("float32").reshape(-1, 1, 1, 3).copy()))

    offset = of(np.zeros((1, 3)))[0, 0, 0]
    slopes = (of(255 * np.eye(3))[:, 0, 0] - offset) / 255
    flip = not np.any(np.diag(slopes)[[0, 2]])
    scale = np.diag(slopes[::-1] if flip else slopes)
    found = Scaling(scale=tuple(scale.tolist()), offset=tuple(offset.tolist()), flip=flip)
    probe = np.random.default_rng(0).integers(0, 256, (8, 3)).astype("float32")
    expected = (probe[:, ::-1] if flip else probe) * scale + offset
    if not np.allclose(of(probe)[:, 0, 0], expected, rtol=1e-4, atol=1e-3):
        raise UserError(
            f'config.model.preset: what "{name}" does to pixels beforehand is more than a scale '
            "and an offset a channel; save the model with it inside as a .keras file."
        )
    return found
