"""Mixup: examples and their targets in between those that there are."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.model.flow import graph_of

# Floats may be numbers of rows here.
_TABLES = (
    keras.layers.Embedding,
    keras.layers.CategoryEncoding,
    keras.layers.Hashing,
    keras.layers.IntegerLookup,
)


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

    def rows(self, vectors: Any) -> Any:
        """Floats (examples, ...) or a structure of such, each mixed with the other example's."""
        return tf.nest.map_structure(self._mixed, vectors)

    def _mixed(self, vectors: Any) -> Any:
        if vectors is None:  # an input that is left out
            return None
        share = tf.cast(self.share, vectors.dtype)
        return share * vectors + (1 - share) * tf.gather(vectors, self.order)

    def targets(self, y: Any, sample_weight: Any) -> list[tuple[tf.Tensor, Any, Any]]:
        """Weight in the loss, targets and sample weights: its own, and the other's."""
        others = tf.nest.map_structure(
            lambda rows: None if rows is None else tf.gather(rows, self.order), [y, sample_weight]
        )
        return [(self.share, y, sample_weight), (1 - self.share, others[0], others[1])]


def place_of(model: keras.Model, inputs: Any) -> tuple[keras.Model | None, keras.Model | None]:
    """Where the examples of a user's model can be mixed: from inputs there, and on to outputs.

    Inputs that are floats, none of which is looked up in a table, are mixed themselves
    (None, None), as images are; else what goes into the last layer is.

    Args:
        model: built.
        inputs: what it is called on, by their dtypes.

    Raises:
        UserError: if it has no single vector for each example in front of a last layer.
    """
    tables = any(isinstance(layer, _TABLES) for layer in model._flatten_layers())
    given = [x for x in tf.nest.flatten(inputs) if x is not None]
    if not tables and all("float" in str(x.dtype) for x in given):
        return None, None
    graph, outputs = graph_of(model), getattr(model, "outputs", None) or []
    if graph is not None and len(outputs) == 1:
        history = outputs[0]._keras_history
        taken = history.operation._inbound_nodes[history.node_index].input_tensors
        if len(taken) == 1 and len(taken[0].shape) == 2 and "float" in taken[0].dtype:
            return keras.Model(graph._inputs_struct, taken[0]), keras.Model(taken[0], outputs[0])
    raise UserError(
        f"mixup needs inputs that are floats, or a vector for each example in front of one last "
        f'layer, but the model "{model.name}" takes others, and has none that Keras can see; set '
        "mixup to 0."
    )


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
