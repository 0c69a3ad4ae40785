"""Mixup: examples and their targets in between those that there are."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf


@dataclasses.dataclass(slots=True, frozen=True)
class Mixture:
    """Each example with another one of its batch (Zhang et al. 2018, arXiv:1710.09412).

    For text the vectors in front of the head are mixed (Guo et al. 2019,
    arXiv:1905.08941; Sun et al. 2020, arXiv:2010.02394).

    Attributes:
        share: of the example itself, 0.5 to 1.
        order: int (examples,), where in the batch the other one stands.
    """

    share: tf.Tensor
    order: tf.Tensor

    def rows(self, vectors: tf.Tensor) -> tf.Tensor:
        """Vectors (examples, width), each mixed with that of the other example."""
        share = tf.cast(self.share, vectors.dtype)
        return share * vectors + (1 - share) * tf.gather(vectors, self.order)

    def targets(self, y: Any, sample_weight: Any) -> list[tuple[tf.Tensor, Any, Any]]:
        """Weight in the loss, targets and sample weights: its own, and the other's."""
        others = [
            None if rows is None else tf.gather(rows, self.order) for rows in (y, sample_weight)
        ]
        return [(self.share, y, sample_weight), (1 - self.share, others[0], others[1])]


def draw(alpha: float, count: tf.Tensor, generator: keras.random.SeedGenerator) -> Mixture:
    """Draws a share from Beta(alpha, alpha), and the order of the others.

    The larger share goes to the example itself (as in Berthelot et al. 2019,
    arXiv:1905.02249): pairs are the same, and metrics by its own target keep a meaning.

    Args:
        alpha: above 0; the mixtures are the more even the larger it is.
        count: examples.
        generator: of both.
    """
    share = keras.random.beta((), alpha, alpha, seed=generator)
    order = keras.random.shuffle(tf.range(count), seed=generator)
    return Mixture(tf.maximum(share, 1 - share), order)
