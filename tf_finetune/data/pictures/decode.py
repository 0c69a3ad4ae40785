"""One file of a picture made red, green and blue bytes, upright and over white."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tf_finetune.errors import UserError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
MOST_PIXELS = 89_478_485  # above this Pillow itself warns of decompression bombs
_LEAST_SIDE = 8
_MOST_BYTES = 10**9
# Brands of HEIC, AVIF and their kin, which phones write and Pillow by itself does not read.
_UNREAD = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
# Of a picture with its border; four times as many and more are made smaller before.
MOST_PADDED = 2**24
# JPEGs are decoded at a half, a quarter or an eighth of their size where that leaves this
# many times the size asked for: Pillow calls the result "practically indistinguishable".
_REDUCING_GAP = 3
_WIDE_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")


_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
INTERPOLATIONS = tuple(_RESAMPLING)


class Unusable(Exception):
    """This file gives no picture; the message is the kind of finding."""


KINDS = (
    "missing picture",
    "unreadable file",
    "empty file",
    "not a picture",
    "too many pixels",
    "tiny picture",
    "truncated picture",
    "corrupt picture",
    "unknown range of values",
    "file of more than 1 GB",
    "HEIC or AVIF picture",  # new ones last: kept by number
)
"""Why a file gives no picture."""


def open_picture(path: str) -> Image.Image:
    """The picture in a file by its header alone: no pixel is decoded yet.

    Raises:
        Unusable: if the file cannot be read, holds no picture, or one too small or too
            large: a header of a few bytes can ask for gigabytes.
    """
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):  # a pipe or a device, which may have no end
            raise Unusable("unreadable file")
        if state.st_size > _MOST_BYTES:
            raise Unusable("file of more than 1 GB")
        content = Path(path).read_bytes()
    except OSError as error:
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
        raise Unusable("missing picture" if gone else "unreadable file") from None
    except ValueError:  # a zero byte in the name
        raise Unusable("missing picture") from None
    return opened(content)


def opened(content: bytes) -> Image.Image:
    """As `open_picture`, of the bytes of a file."""
    if not content:
        raise Unusable("empty file")
    if content[:4] == b"RIFF" and int.from_bytes(content[4:8], "little") > len(content) - 8:
        raise Unusable("truncated picture")  # the reader of WebP does not tell
    if content[4:8] == b"ftyp" and content[8:12] in _UNREAD:
        raise Unusable("HEIC or AVIF picture")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        raise Unusable("too many pixels") from None
    except Exception as error:  # Pillow's readers raise many kinds on bytes that are wrong
        raise Unusable(_damage(error, "not a picture")) from None
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise Unusable("too many pixels")
    if min(width, height) < _LEAST_SIDE:
        raise Unusable("tiny picture")
    return image


def decode(image: Image.Image, least: tuple[int, int] | None = None) -> Image.Image:
    """The pixels as RGB: turned as its EXIF data say, alpha over white, 16 bits cut to 8.

    Of several frames the first is taken. Colour profiles are not applied.

    Args:
        image: of `open_picture`.
        least: (height, width) that is wanted in the end; large JPEGs come smaller then.

    Raises:
        Unusable: if the file is damaged, or its values have no known range.
    """
    try:
        if least and image.format in ("JPEG", "MPO"):
            side = _REDUCING_GAP * max(least)  # it may still have to be turned
            image.draft(None, (side, side))
        image.load()
        with contextlib.suppress(Exception):  # what is wrong with EXIF data hurts no pixel
            ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image)
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(_damage(error, "corrupt picture")) from None


def of_python(value: Any) -> Image.Image:
    """A picture handed over in Python, as `opened` gives that of a file.

    Args:
        value: of Pillow, or uint8 pixels (height, width) or (height, width, channels) with 1, 3
            or 4 of these, or other numbers from 0 to 255, which are rounded.

    Raises:
        ValueError: for anything else, with the mend.
    """
    if isinstance(value, Image.Image):
        try:
            return value.copy()
        except Exception as error:  # of a file that was opened the pixels are read only here
            raise ValueError(f"found a picture that cannot be read: {error}.") from None
    pixels = value[:, :, 0] if value.ndim == 3 and value.shape[2] == 1 else value
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))) or not value.size:
        raise ValueError(
            f"found a picture of shape {value.shape}; it must be (height, width), or (height, "
            "width, channels) with 1, 3 or 4 of these."
        )
    if pixels.dtype != np.uint8:
        low, high = float(np.min(pixels)), float(np.max(pixels))
        # Up to 1 they may be shares of the whole.
        if not (low >= 0 and (high == 0 or 1 < high <= 255)):
            mend = "(x * 255).astype('uint8')" if 0 <= low <= high <= 1 else "to 0 to 255, uint8"
            raise ValueError(
                f"pictures must be uint8, 0 to 255; found {pixels.dtype}, {low:g} to {high:g}. "
                f"Scale them and convert: {mend}."
            )
        # Keras's own reader resizes, and gives numbers between the whole ones.
        pixels = np.round(pixels).astype(np.uint8)
    return Image.fromarray(pixels)


def refuse_one(x: Any) -> None:
    """Raises `UserError` for one picture where a list of them is wanted."""
    array = isinstance(x, np.ndarray) and x.dtype == np.uint8 and x.ndim == 3
    # A stack of grey ones has no last side of 3 or 4.
    if isinstance(x, str | bytes | Path | Image.Image) or (array and x.shape[-1] in (3, 4)):
        raise UserError("predict() takes a list of pictures; for one write predict([picture]).")


def is_animated(image: Image.Image) -> bool:
    """Whether there are more frames than the first; a phone's preview in a JPEG is none."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # behind the first frame there may be anything
        return False


def _damage(error: Exception, otherwise: str) -> str:
    return "truncated picture" if "truncated" in str(error).lower() else otherwise


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_GREY:
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise Unusable("unknown range of values")
        wide = values.astype(np.uint32)
        wide *= 255
        wide += 2**15
        wide //= 2**16 - 1
        image = Image.fromarray(wide.astype(np.uint8))
    if image.mode == "F":
        raise Unusable("unknown range of values")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def resize(
    image: Image.Image, size: tuple[int, int], interpolation: str = "bilinear", how: str = "crop"
) -> np.ndarray:
    """A picture at the size of the model's input, antialiased.

    Args:
        image: in RGB.
        size: (height, width).
        interpolation: `nearest`, `bilinear`, `bicubic`, `lanczos` or `area`.
        how: another shape is reached by `crop` (the middle stays), `squash` or `pad`
            (with black), each as by `keras.layers.Resizing`.

    Returns:
        (height, width, 3) uint8.
    """
    height, width = size
    box = None
    if how == "crop":
        box_width, box_height = _shape(image.size, min, height, width)
        left, top = (image.width - box_width) // 2, (image.height - box_height) // 2
        box = (left, top, left + box_width, top + box_height)
    elif how == "pad":
        box_width, box_height = _shape(image.size, max, height, width)
        if (factor := math.isqrt(box_width * box_height // MOST_PADDED)) > 1:
            # A long and thin one: the border alone would fill the memory.
            image = image.reduce(factor)
            box_width, box_height = _shape(image.size, max, height, width)
        border = (box_width - image.width) // 2, (box_height - image.height) // 2
        image = ImageOps.expand(image, border)
    return np.asarray(image.resize((width, height), _RESAMPLING[interpolation], box=box))


def _shape(
    size: tuple[int, int], choose: Callable[..., int], height: int, width: int
) -> tuple[int, int]:
    """Width and height in this proportion: inside of `size` by `min`, around it by `max`."""
    own_width, own_height = size
    return (
        max(1, choose(own_width, own_height * width // height)),
        max(1, choose(own_height, own_width * height // width)),
    )
