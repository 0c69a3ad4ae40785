"""Pictures decoded and resized inside a TensorFlow graph, as `data.pictures` does it outside."""

from __future__ import annotations

from typing import Any

from tf_finetune.data.pictures.decode import MOST_PADDED, MOST_PIXELS
from tf_finetune.data.pictures.store import Look

# As EXIF data hold a picture's orientation: tag, type and count, with little or big ends first;
# and where behind them the value is.
_ORIENTATION = ((b"\x12\x01\x03\x00\x01\x00\x00\x00", 8), (b"\x01\x12\x00\x03\x00\x00\x00\x01", 9))
_EXIF_BYTES = 2**16
_PNG, _BMP = b"\x89PNG\r\n\x1a\n", b"BM"
_KERNELS = {
    "bilinear": "triangle",
    "bicubic": "keyscubic",
    "lanczos": "lanczos3",
    "area": "box",
}


def _not_too_thin(x: Any, wanted: Any) -> Any:
    """Smaller where the border to come alone would fill the memory, as `data.pictures` does."""
    import tensorflow as tf

    own = tf.shape(x)[1:3]
    whole = tf.cast(tf.maximum(own, own[::-1] * wanted // wanted[::-1]), tf.float32)
    factor = tf.cast(tf.sqrt(whole[0] * whole[1] / MOST_PADDED), tf.int32)
    smaller = -(-own // tf.maximum(factor, 1))
    return tf.cond(factor > 1, lambda: tf.round(tf.image.resize(x, smaller, "area")), lambda: x)


def decoded(content: Any) -> Any:
    """One file's bytes, a scalar string, as (height, width, 3) uint8; alpha is put over white.

    JPEG (upright, as its EXIF data say), PNG, GIF (the first frame, transparent parts black) and
    BMP of 8 or 24 bits; others raise an error, and so do a JPEG and a PNG of more pixels than
    may be trained on.
    """
    import tensorflow as tf

    def begins(with_: bytes) -> Any:
        return tf.equal(tf.strings.substr(content, 0, len(with_)), with_)

    def gif() -> Any:
        return tf.io.decode_image(content, channels=3, expand_animations=False)

    def jpeg() -> Any:
        with tf.control_dependencies([_few(tf.io.extract_jpeg_shape(content)[:2])]):
            pixels = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
        return _upright(pixels, _orientation(content))

    kinds = [
        (tf.io.is_jpeg(content), jpeg),
        (begins(_PNG), lambda: _png(content)),
        (begins(_BMP), lambda: _bmp(content)),
    ]
    return tf.ensure_shape(tf.case(kinds, default=gif), [None, None, 3])


def _few(sides: Any) -> Any:
    """Fails where a header of a few bytes asks for gigabytes."""
    import tensorflow as tf

    pixels = tf.reduce_prod(tf.cast(sides, tf.int64))
    return tf.debugging.assert_less_equal(
        pixels, tf.constant(MOST_PIXELS, tf.int64), "too many pixels"
    )


def _orientation(content: Any) -> Any:
    """What EXIF data in the bytes of a JPEG say of how it lies, 1 to 8; 1 is upright."""
    import tensorflow as tf

    head = _bytes(content, 0, _EXIF_BYTES)
    found = []
    for pattern, place in _ORIENTATION:
        count = tf.maximum(tf.size(head) - place, 0)
        same = [tf.equal(head[i : i + count], byte) for i, byte in enumerate(pattern)]
        at = tf.where(tf.reduce_all(same, axis=0))[:1, 0]
        found.append(tf.gather(head, at + place))
    value = tf.cast(tf.concat([*found, tf.constant([1], tf.uint8)], axis=0)[0], tf.int32)
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _upright(pixels: Any, orientation: Any) -> Any:
    """A picture turned and mirrored, as Pillow's `exif_transpose` does it."""
    import tensorflow as tf

    def turned(across: bool, *reversed_: int) -> Any:
        x = tf.transpose(pixels, [1, 0, 2]) if across else pixels
        return tf.reverse(x, reversed_) if reversed_ else x

    ways = (
        (False,),
        (False, 1),
        (False, 0, 1),
        (False, 0),
        (True,),
        (True, 1),
        (True, 0, 1),
        (True, 0),
    )
    return tf.switch_case(orientation - 1, [lambda way=way: turned(*way) for way in ways])


def _png(content: Any) -> Any:
    import tensorflow as tf

    sides = tf.reshape(tf.cast(_bytes(content, 16, 8), tf.int64), [2, 4])
    sides = tf.reduce_sum(sides * tf.constant([2**24, 2**16, 2**8, 1], tf.int64), axis=1)
    with tf.control_dependencies([_few(sides)]):
        pixels = tf.cast(tf.io.decode_png(content, channels=4), tf.float32)
    depth, alpha = tf.cast(_bytes(content, 24, 1)[0], tf.int32), pixels[..., 3:]
    # Where a file of fewer than 8 bits has no alpha, TensorFlow puts in its largest value.
    most = tf.cast(tf.bitwise.left_shift(1, depth) - 1, tf.float32)
    absent = tf.logical_and(depth < 8, tf.reduce_all(tf.equal(alpha, most)))
    share = tf.where(absent, 1.0, alpha / 255)
    return tf.cast(tf.round(pixels[..., :3] * share + 255 * (1 - share)), tf.uint8)


def _bmp(content: Any) -> Any:
    import tensorflow as tf

    def paletted() -> Any:
        # TensorFlow gives the numbers of colours; these stand in front of the pixels.
        numbers = tf.io.decode_bmp(content, channels=3)[..., 0]
        begin, end = 14 + _number(content, 14), _number(content, 10)
        colours = tf.reshape(_bytes(content, begin, end - begin), [-1, 4])[:, 2::-1]
        return tf.gather(colours, tf.cast(numbers, tf.int32))

    depth = _bytes(content, 28, 1)[0]
    return tf.cond(depth == 8, paletted, lambda: tf.io.decode_bmp(content, channels=3))


def _number(content: Any, place: int) -> Any:
    import tensorflow as tf

    return tf.io.decode_raw(tf.strings.substr(content, place, 4), tf.int32)[0]


def _bytes(content: Any, place: Any, count: Any) -> Any:
    import tensorflow as tf

    return tf.io.decode_raw(tf.strings.substr(content, place, count), tf.uint8)


def resized(pixels: Any, look: Look) -> Any:
    """(n, height, width, 3) uint8 pictures of one size as (n, *look.size, 3) float32.

    The values are whole numbers, those of `data.pictures` but for a last digit. Where one side
    grows and the other shrinks, newer versions of Pillow go the other way round, and so cut
    off the overshoots of `bicubic` elsewhere; by `nearest` and `area` a pixel on an edge may
    come from the other side of it.
    """
    import tensorflow as tf

    wanted = tf.constant(look.size)
    x = tf.cast(pixels, tf.float32)
    if look.how == "pad":
        x = _not_too_thin(x, wanted)
    own = tf.shape(x)[1:3]
    # What of the other side is in the wanted proportion.
    fitting = own[::-1] * wanted // wanted[::-1]
    box, first = own, tf.zeros_like(own)
    if look.how == "crop":
        box = tf.maximum(1, tf.minimum(own, fitting))
        first = (own - box) // 2
    elif look.how == "pad":
        border = (tf.maximum(own, fitting) - own) // 2
        x = tf.pad(x, [[0, 0], [border[0], border[0]], [border[1], border[1]], [0, 0]])
        box = own + 2 * border
    if look.interpolation == "nearest":
        x = tf.image.crop_to_bounding_box(x, first[0], first[1], box[0], box[1])
        x = tf.image.resize(x, wanted, "nearest")
    else:
        scale = tf.cast(wanted, tf.float32) / tf.cast(box, tf.float32)
        shift = -tf.cast(first, tf.float32) * scale
        # One direction after the other, as Pillow does, for overshoots are cut off in between.
        for across in (True, False):
            there = tf.constant([not across, across])
            x = tf.raw_ops.ScaleAndTranslate(
                images=x,
                size=tf.where(there, wanted, tf.shape(x)[1:3]),
                scale=tf.where(there, scale, 1.0),
                translation=tf.where(there, shift, 0.0),
                kernel_type=_KERNELS[look.interpolation],
                antialias=True,
            )
            x = tf.clip_by_value(tf.round(x), 0, 255)
    return tf.ensure_shape(x, [None, *look.size, 3])
