"""Pictures decoded and resized inside a TensorFlow graph, as `data.pictures` does it outside."""

from __future__ import annotations

from typing import Any

from tf_finetune.data.pictures.store import Look

_PNG, _BMP = b"\x89PNG\r\n\x1a\n", b"BM"
_KERNELS = {
    "bilinear": "triangle",
    "bicubic": "keyscubic",
    "lanczos": "lanczos3",
    "area": "box",
}


def decoded(content: Any) -> Any:
    """One file's bytes, a scalar string, as (height, width, 3) uint8; alpha is put over white.

    JPEG, PNG, GIF (the first frame, transparent parts black) and BMP of 8 or 24 bits; others
    raise an error. What EXIF data say of a picture's orientation is not heeded: TensorFlow does
    not read it.
    """
    import tensorflow as tf

    def begins(with_: bytes) -> Any:
        return tf.equal(tf.strings.substr(content, 0, len(with_)), with_)

    def gif() -> Any:
        return tf.io.decode_image(content, channels=3, expand_animations=False)

    def jpeg() -> Any:
        return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")

    kinds = [
        (tf.io.is_jpeg(content), jpeg),
        (begins(_PNG), lambda: _png(content)),
        (begins(_BMP), lambda: _bmp(content)),
    ]
    return tf.ensure_shape(tf.case(kinds, default=gif), [None, None, 3])


def _png(content: Any) -> Any:
    import tensorflow as tf

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
