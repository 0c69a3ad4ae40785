"""Pictures decoded and resized inside a TensorFlow graph, as `data.pictures` does it outside."""

from __future__ import annotations

from typing import Any

from tf_finetune.data.pictures.store import Look

_PNG = b"\x89PNG\r\n\x1a\n"
_KERNELS = {
    "bilinear": "triangle",
    "bicubic": "keyscubic",
    "lanczos": "lanczos3",
    "area": "box",
}


def decoded(content: Any) -> Any:
    """One file's bytes, a scalar string, as (height, width, 3) uint8; alpha is put over white.

    JPEG, PNG, GIF (the first frame) and BMP. What EXIF data say of a picture's orientation is
    not heeded: TensorFlow does not read it.
    """
    import tensorflow as tf

    def png() -> Any:
        pixels = tf.cast(tf.io.decode_png(content, channels=4), tf.float32)
        share = pixels[..., 3:] / 255
        return tf.cast(tf.round(pixels[..., :3] * share + 255 * (1 - share)), tf.uint8)

    def other() -> Any:
        return tf.io.decode_image(content, channels=3, expand_animations=False)

    def jpeg() -> Any:
        return tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")

    is_png = tf.equal(tf.strings.substr(content, 0, len(_PNG)), _PNG)
    pixels = tf.cond(tf.io.is_jpeg(content), jpeg, lambda: tf.cond(is_png, png, other))
    return tf.ensure_shape(pixels, [None, None, 3])


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
