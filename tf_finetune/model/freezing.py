"""Which layers train: the one owner of `trainable`."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import keras

from tf_finetune.errors import UserError


@dataclasses.dataclass(slots=True, kw_only=True)
class Groups:
    """The layers of a network, in the order that data flows through them.

    Attributes:
        stem: everything before the first block, such as embeddings.
        blocks: the repeated blocks; what follows the last one and is not the
            head (a final norm, a pooler) belongs to it.
        head: what was put on the backbone.
    """

    stem: list[keras.layers.Layer]
    blocks: list[list[keras.layers.Layer]]
    head: list[keras.layers.Layer]


def layer_groups(network: keras.Model, backbone: keras.Model) -> Groups:
    """Divides a flat functional network into stem, blocks and head.

    The blocks are the layers of the backbone's most frequent class among those
    with weights of their own that are themselves made of layers.
    """
    inside = {id(layer) for layer in backbone.layers}
    body = [layer for layer in network.layers if id(layer) in inside]
    head = [layer for layer in network.layers if id(layer) not in inside]
    composite = [layer for layer in body if layer.weights and _has_sublayers(layer)]
    counts = Counter(type(layer) for layer in composite)
    if not counts:
        return Groups(stem=body, blocks=[], head=head)
    block_class = counts.most_common(1)[0][0]
    starts = [i for i, layer in enumerate(body) if type(layer) is block_class]
    ends = [*starts[1:], len(body)]
    return Groups(
        stem=body[: starts[0]],
        blocks=[body[start:end] for start, end in zip(starts, ends, strict=True)],
        head=head,
    )


def _has_sublayers(layer: keras.layers.Layer) -> bool:
    return len(list(layer._flatten_layers(include_self=False))) > 0


def set_trainable(groups: Groups, train: str) -> None:
    """Opens what `train` selects and freezes the rest.

    Args:
        groups: of the network that will be compiled next. Keras reads `trainable`
            when it compiles; changing it later has no effect on a running `fit`.
        train: `head`, `all`, or `last:K` for the head and the last K blocks.

    Raises:
        UserError: if there are fewer than K blocks.
    """
    body = [groups.stem, *groups.blocks]
    opened = _opened(train, len(groups.blocks))
    for index, layers in enumerate(body):
        for layer in layers:
            layer.trainable = index >= len(body) - opened
    for layer in groups.head:
        layer.trainable = True


def _opened(train: str, blocks: int) -> int:
    if train == "head":
        return 0
    if train == "all":
        return blocks + 1
    count = int(train.removeprefix("last:"))
    if count > blocks:
        raise UserError(
            f'train="{train}", but the backbone has {blocks} blocks; set last:{blocks} or less in '
            "config.fit.train or the Phase."
        )
    return count


def count_parameters(model: keras.Model) -> tuple[int, int]:
    """Trainable and all parameters of a model."""
    return (
        sum(math.prod(v.shape) for v in model.trainable_weights),
        sum(math.prod(v.shape) for v in model.weights),
    )
