"""The layers of any Keras model as stem, blocks and head, in the order that data flow.

The rule, step by step:

1. **Order.** Functional and Sequential models, also nested ones, are laid open into calls
   of single layers, in the order that data flow. A subclassed model is called on symbols
   to see in which order it calls its layers; where that fails they stand in the order of
   their creation. A layer that is called more than once stands where it is called first.
2. **Backbone.** The one that is given; else `model.backbone`; else the model itself where
   it is a KerasHub backbone; else the nested model that holds most of the parameters, if
   more follow behind it; else everything up to the last global pooling, or other step from
   maps or sequences to one vector, through which all data pass and that has kernels before
   and behind it; else everything but the last layer, where that is a plain kernel (a Dense,
   a convolution). What the backbone needs and does not hold counts to the stem; all the
   rest is the head.
3. **Blocks** (found in `repeats.py`), by the first of these that holds more than half of the
   backbone's parameters, embedding tables left out:
   a. repeated layers that are made of layers (Keras's own, such as attention, are units),
      or repeated nested models: the outermost classes of which two stand next to each
      other, or one is called twice in a row; else the largest class that occurs twice.
      One layer that holds most is opened and searched;
   b. names: `conv2_block1_1_conv` belongs to `conv2_block1`, the name up to its last word
      with a number that something follows. There must be two such keys or more, each in
      one piece, and they must cover most of the layers with weights;
   c. the graph: the stretches from one point that all data pass to the next, where paths
      branch and join between them (residuals, concatenations), two or more;
   d. each layer with a kernel.
   What comes before the first block is the stem; what comes after a block, and is no
   block and not the head, belongs to that block.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

import keras
import keras_hub

from tf_finetune.errors import UserError
from tf_finetune.model.flow import (
    Call,
    calls_of,
    cuts,
    has_kernel,
    kind,
    layers_of,
    size,
    sublayers,
    unseen,
    unwrapped,
)
from tf_finetune.model.repeats import block_starts
from tf_finetune.value_checks import nearest


@dataclasses.dataclass(slots=True, kw_only=True)
class Groups:
    """The layers of a model, in the order that data flow through them.

    Attributes:
        model: that was divided.
        stem: everything before the first block, such as embeddings.
        blocks: the repeated blocks; what follows one and is no block itself (a
            transition, a final norm, a pooler) belongs to it.
        head: what was put on the backbone; empty for a backbone alone.
        names: of the blocks.
    """

    model: keras.Model
    stem: list[keras.layers.Layer]
    blocks: list[list[keras.layers.Layer]]
    head: list[keras.layers.Layer]
    names: list[str]

    @property
    def parts(self) -> list[list[keras.layers.Layer]]:
        """Stem, each block, head."""
        return [self.stem, *self.blocks, self.head]

    def weights(self) -> list[list[keras.Variable]]:
        """The weights of stem, each block and head.

        Each weight of the model stands once, where data meet it first. Those that the
        model holds itself, outside of all these layers, count to the stem.
        """
        seen: set[int] = set()
        found = [unseen((v for x in layers for v in x.weights), seen) for layers in self.parts]
        found[0] += unseen(self.model.weights, seen)
        return found


def layer_groups(model: keras.Model, backbone: keras.layers.Layer | str | None = None) -> Groups:
    """Divides a model into stem, blocks and head, by the rule at the top of this file.

    Args:
        model: built; Functional, Sequential, subclassed, a KerasHub task or backbone.
        backbone: the pretrained part, or its layer's name; None to find it. It may be
            nested in the model, share its layers with it, or be the model.

    Raises:
        UserError: if the model is not built, has no layers that Keras can see, or does not
            hold the backbone.
    """
    _check(model)
    body, before, head = _split(model, calls_of(model)[0], backbone)
    body, starts = block_starts(body)
    stem = layers_of(before)
    seen = {id(layer) for layer in stem}
    edges = [0, *(index for index, _ in starts), len(body)]
    parts = [unseen(layers_of(body[a:b]), seen) for a, b in itertools.pairwise(edges)]
    return Groups(
        model=model,
        stem=[*stem, *parts[0]],
        blocks=parts[1:],
        head=unseen(layers_of(head), seen),
        names=[name for _, name in starts],
    )


def _check(model: keras.Model) -> None:
    if not isinstance(model, keras.Model):
        raise UserError(f"model is a {type(model).__name__}; it must be a keras.Model.")
    if not model.built or not model.weights:
        raise UserError(
            f'the model "{model.name}" has no weights yet; call it once on a batch, or build it.'
        )
    if not any(size(layer) for layer in model.layers):
        raise UserError(
            f'the model "{model.name}" holds its weights outside of layers, where it cannot be '
            "divided; put them into layers that are its attributes."
        )


def _split(
    model: keras.Model, calls: list[Call], given: keras.layers.Layer | str | None
) -> tuple[list[Call], list[Call], list[Call]]:
    """The calls of the backbone, of what it needs, and of the rest."""
    backbone = _backbone(model, calls, given)
    if backbone is model:
        return calls, [], []
    if backbone is None:
        start = _head_start(calls)
        return calls[:start], [], calls[start:]
    own = {id(x) for call in calls_of(backbone)[0] for x in (call.layer, *call.inside)}
    own.add(id(backbone))
    body = [c for c in calls if id(c.layer) in own or any(id(m) in own for m in c.inside)]
    if not any(size(layer) for layer in layers_of(body)):
        raise UserError(
            f'backbone is "{backbone.name}", of which the model "{model.name}" holds no layer '
            "with weights; give the backbone that the model was made from."
        )
    # A shared layer may be called again behind the head, as tied embeddings are.
    seen: set[int] = set()
    needed = {t for call in body if unseen([call.layer], seen) for t in call.reads}
    taken = {id(call) for call in body}
    before: list[Call] = []
    for call in reversed(calls):
        if id(call) not in taken and needed.intersection(call.writes):
            needed.update(call.reads)
            taken.add(id(call))
            before.insert(0, call)
    return body, before, [call for call in calls if id(call) not in taken]


def _backbone(
    model: keras.Model, calls: list[Call], given: keras.layers.Layer | str | None
) -> keras.layers.Layer | None:
    nested = unseen((x for call in calls for x in (*call.inside, call.layer)), set())
    models = [x for x in nested if isinstance(x, keras.Model)]
    if isinstance(given, str):
        named = {layer.name: layer for layer in nested}
        if given not in named:
            raise UserError(
                f'backbone is "{given}", but the model "{model.name}" has no layer of that name. '
                f"Models in it: {listed(x.name for x in models)}.{nearest(given, named)}"
            )
        return named[given]
    if isinstance(given, keras.layers.Layer):
        return given
    if given is not None:
        raise UserError(
            f"backbone is a {type(given).__name__}; give the model or layer, or its name."
        )
    if isinstance(getattr(model, "backbone", None), keras.layers.Layer):
        return model.backbone
    if isinstance(model, keras_hub.models.Backbone):
        return model
    smaller = []
    for candidate in models:
        if 2 * size(candidate) <= size(model):
            smaller.append(candidate)
        elif isinstance(candidate, keras_hub.models.Backbone):
            return candidate
        elif _followed(candidate, calls):
            # One that comes after others of its kind is their last stage, no backbone.
            stage = any(kind(other) == kind(candidate) for other in smaller if size(other))
            return None if stage else candidate
    return None


def _followed(nested: keras.Model, calls: list[Call]) -> bool:
    """Whether layers with weights come behind a nested model."""
    last = max(i for i, call in enumerate(calls) if nested in (*call.inside, call.layer))
    return any(size(layer) for layer in layers_of(calls[last + 1 :]))


def _head_start(calls: list[Call]) -> int:
    """Where the head begins in a model without a nested backbone."""
    kernels = [i for i, call in enumerate(calls) if has_kernel(call.layer)]
    if not kernels:
        return len(calls)
    for cut in reversed(cuts(calls)):
        if calls[cut].flattens and kernels[0] < cut < kernels[-1]:
            return cut
    last = max(i for i, call in enumerate(calls) if size(call.layer))
    pooled = any("Pool" in type(call.layer).__name__ for call in calls[last:])
    # A backbone alone ends with a norm, a pooling or a layer made of layers.
    plain = last == kernels[-1] and not sublayers(unwrapped(calls[last].layer))
    return last if plain and not pooled else len(calls)


def listed(names: Iterable[str], most: int = 12) -> str:
    """The first of some names, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "") or "none"
