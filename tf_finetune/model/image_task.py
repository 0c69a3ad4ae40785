"""A task on pictures: backbone and head in one Keras model that takes pixels."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from tf_finetune.data.pictures.decode import (
    FORMATS,
    Unusable,
    decode,
    of_python,
    open_picture,
    opened,
    refuse_one,
    resize,
)
from tf_finetune.data.pictures.store import Look
from tf_finetune.data.pictures.threads import in_order
from tf_finetune.errors import UserError
from tf_finetune.model.headed import HeadedTask
from tf_finetune.model.heads import TokenPooling
from tf_finetune.model.lite0 import SamePaddedEfficientNet  # noqa: F401 - known to Keras
from tf_finetune.model.scaling import PixelScaling, Scaling


@keras.saving.register_keras_serializable("tf_finetune")
class ImageTask(HeadedTask):
    """A Keras model of pictures; see `HeadedTask` for its parts.

    Called on pixels (n, height, width, 3) of 0 to 255 at `look.size` it gives what users
    read: class probabilities (n, k), one score a label (n, k), or values (n, 1), always
    float32. Pixels are scaled inside as the backbone wants them. `predict` also takes
    files and pictures of any size.

    Args:
        backbone: from scaled pixels to maps (n, height, width, c), tokens (n, t, c) or
            vectors (n, c).
        preprocessor: None, always; here because Keras hands it back when it loads.
        kind: `classification`, `multi_label` or `regression`.
        class_names: what the k outputs stand for; one name for regression.
        pooling: `mean`, `max`, `first` (of tokens) or `backbone` (its own vector); a
            backbone that gives vectors is not pooled again.
        dropout: rate in front of the last layer.
        scale: with `offset` and `flip` a `scaling.Scaling`.
        offset: see `scale`.
        flip: see `scale`.
        size: (height, width) of the pixels.
        interpolation: how pictures are resized, as in `Look`.
        how: they get that shape, as in `Look`.
        target_mean: of the training targets, for regression.
        target_std: of the training targets, above 0.
        temperature: as in `calibrate`.

    Raises:
        UserError: if the backbone's output cannot be pooled so.
    """

    column = "image"  # of a table, that `predict` takes

    def __init__(
        self,
        backbone: keras.Model,
        preprocessor: None,
        kind: str,
        class_names: Sequence[str],
        pooling: str = "mean",
        dropout: float = 0.1,
        scale: Sequence[float] = (1.0, 1.0, 1.0),
        offset: Sequence[float] = (0.0, 0.0, 0.0),
        flip: bool = False,
        size: tuple[int, int] = (224, 224),
        interpolation: str = "bilinear",
        how: str = "crop",
        target_mean: float = 0.0,
        target_std: float = 1.0,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        scaling = PixelScaling(scale, offset, flip, name="scaling")
        inputs = keras.Input((*size, 3), name="pixels")
        super().__init__(
            backbone,
            None,
            inputs,
            _pool(backbone, backbone(scaling(inputs)), pooling),
            kind=kind,
            class_names=class_names,
            dropout=dropout,
            target_mean=target_mean,
            target_std=target_std,
            temperature=temperature,
            **kwargs,
        )
        self.pooling = pooling
        self.scaling = Scaling(scale=tuple(scale), offset=tuple(offset), flip=flip)
        self.look = Look(size=(size[0], size[1]), interpolation=interpolation, how=how)

    def predict(self, x: Any, batch_size: int = 64, **kwargs: Any) -> np.ndarray:
        """Probabilities, scores or values for pictures, or for anything Keras takes.

        Args:
            x: n pictures, each the path of a file, a file's bytes, one of Pillow, or uint8
                pixels (height, width) or (height, width, 1, 3 or 4) of any size, in a list or as
                an array; or input that `keras.Model.predict` takes.
            batch_size: pictures a step.
            **kwargs: for `keras.Model.predict` where `x` is none of these.

        Returns:
            A float32 array (n, k).

        Raises:
            UserError: if a file is no picture.
        """
        refuse_one(x)
        if not _are_pictures(x):
            return super().predict(x, batch_size=batch_size, **kwargs)
        outputs = np.empty((len(x), len(self.class_names)), "float32")
        pixels = in_order(self._seen, x)
        for start in range(0, len(x), batch_size):
            chosen = np.stack(list(itertools.islice(pixels, batch_size)))
            outputs[start : start + batch_size] = np.asarray(self(chosen, training=False))
        return outputs

    def pixels_of(self, pictures: Sequence[Any]) -> np.ndarray:
        """Pictures as the network takes them: uint8 (n, *look.size, 3).

        Args:
            pictures: as in `predict`.

        Raises:
            UserError: as `predict`.
        """
        pixels = np.zeros((len(pictures), *self.look.size, 3), np.uint8)
        for i, one in enumerate(in_order(self._seen, pictures)):
            pixels[i] = one
        return pixels

    def _seen(self, picture: Any) -> np.ndarray:
        """A file, its bytes or pixels as the network sees it: uint8 at `look.size`."""
        name = f'"{picture}"' if isinstance(picture, str | Path) else "a picture"
        try:
            if isinstance(picture, np.ndarray | Image.Image):
                image = decode(of_python(picture))
            else:
                isfile = isinstance(picture, str | Path)
                image = open_picture(str(picture)) if isfile else opened(picture)
                image = decode(image, self.look.size)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        except Unusable as error:
            raise UserError(f"{name}: {error}. Give a whole {', '.join(FORMATS)}.") from None
        return resize(image, self.look.size, self.look.interpolation, self.look.how)

    def _own_config(self) -> dict[str, Any]:
        look = {"interpolation": self.look.interpolation, "how": self.look.how}
        own = {"pooling": self.pooling, "size": self.look.size, **look}
        return super()._own_config() | own | dataclasses.asdict(self.scaling)


def _are_pictures(x: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "UO" or (x.dtype == np.uint8 and x.ndim in (3, 4))
    return isinstance(x, list | tuple) and all(
        isinstance(one, str | bytes | Path | Image.Image)
        or (isinstance(one, np.ndarray) and one.dtype == np.uint8)
        for one in x
    )


def _pool(backbone: keras.Model, output: Any, pooling: str) -> keras.KerasTensor:
    rank = len(getattr(output, "shape", ()))
    if rank == 2:
        # In float32, as all that is pooled here.
        return keras.layers.Activation("linear", dtype="float32", name="pooling")(output)
    allowed = {3: ("first", "mean", "max"), 4: ("mean", "max")}.get(rank)
    if allowed is None:
        raise UserError(
            f"config.model.preset: {type(backbone).__name__} gives {type(output).__name__}; a "
            "backbone for pictures gives maps, tokens or vectors."
        )
    if pooling not in allowed:
        raise UserError(
            f'config.model.pooling is "{pooling}", but {type(backbone).__name__} gives '
            f"{'maps' if rank == 4 else 'tokens'}; choose {' or '.join(allowed)}."
        )
    if rank == 3:
        return TokenPooling(pooling, name="pooling")(output)
    layer = (
        keras.layers.GlobalAveragePooling2D
        if pooling == "mean"
        else (keras.layers.GlobalMaxPooling2D)
    )
    return layer("channels_last", dtype="float32", name="pooling")(output)
