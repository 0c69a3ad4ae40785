"""CutMix: a rectangle of another picture in each, and targets by its area."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.fit.mixup import Mixture


@dataclasses.dataclass(slots=True, frozen=True)
class Patches(Mixture):
    """Each picture with a rectangle of another one of its batch (Yun et al. 2019).

    The paper is arXiv:1905.04899. `share` is that of the picture's own pixels, 0 to 1.

    Attributes:
        box: int (4,), top, bottom, left and right of the rectangle in all of them.
    """

    box: tf.Tensor

    def _mixed(self, pictures: Any) -> Any:
        top, bottom, left, right = tf.unstack(self.box)
        rows, columns = (tf.range(size) for size in tf.unstack(tf.shape(pictures)[1:3]))
        inside = ((rows >= top) & (rows < bottom))[:, None] & (columns >= left) & (columns < right)
        return tf.where(inside[..., None], tf.gather(pictures, self.order), pictures)


def draw_patches(
    alpha: float, pictures: tf.Tensor, generator: keras.random.SeedGenerator
) -> Patches:
    """Draws a rectangle and the order of the others, as the paper does.

    The share of its area is drawn from Beta(alpha, alpha), its shape is that of the picture
    and its middle lies anywhere; what would lie outside is cut off.

    Args:
        alpha: above 0.
        pictures: (n, height, width, channels).
        generator: of all that is random.
    """
    count, *sizes = tf.unstack(tf.shape(pictures)[:3])
    side = tf.sqrt(keras.random.beta((), alpha, alpha, seed=generator))
    middles = keras.random.uniform((2,), seed=generator)
    order = keras.random.shuffle(tf.range(count), seed=generator)
    box, area = [], tf.constant(1.0)
    for size, middle in zip(sizes, tf.unstack(middles), strict=True):
        extent = tf.cast(size, tf.float32)
        half = tf.cast(extent * side, tf.int32) // 2
        at = tf.cast(extent * middle, tf.int32)
        ends = [tf.maximum(at - half, 0), tf.minimum(at + half, size)]
        area *= tf.cast(ends[1] - ends[0], tf.float32) / extent
        box += ends
    return Patches(1 - area, order, tf.stack(box))
