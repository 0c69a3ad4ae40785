"""A functional model cut in two: what is frozen and always gives the same, and what trains.

The rule, step by step:

1. Nested functional and Sequential models are laid open into steps, each a call of a layer or
   of an operation. A model with a `call` of its own stays one step.
2. A step belongs to the prefix if nothing in it trains, nothing in it is random, it adds no
   loss, and all that it reads comes from the prefix or is an input of the model.
3. Steps without weights at the prefix's end go to the suffix where less is then to be kept:
   behind an upsampling, or an attention mask made of the padding mask.
4. What the suffix reads of the prefix is the cut. Inputs of the model are passed on as they are.

`keras.Model(cut, outputs)` would do for few models: it fails where a layer stands on both
sides of the cut, and where nested models use a name twice. So steps are executed one by one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.model.flow import unseen
from tf_finetune.model.freezing import is_random
from tf_finetune.model.laid_open import Step, Steps, Values, is_graph, laid_open

# What an axis of no fixed length counts as, where sizes are compared.
_TOKENS = 32.0
_MASK = ".mask"


class NotCut(Exception):
    """Why a model is not cut; to be put behind "not cut, because"."""


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Cut:
    """Where a model is cut, as its `trainable` was.

    Attributes:
        steps: of the whole model.
        prefix: those that are run once.
        suffix: those that train.
        kept: keys of what is to be kept of the prefix, by name.
        passed: keys of the model's inputs that the suffix reads too, by name.
    """

    steps: Steps
    prefix: list[Step]
    suffix: list[Step]
    kept: dict[str, Hashable]
    passed: dict[str, Hashable]

    def shape(self, name: str) -> tuple[int | None, ...]:
        """Of what is kept under a name, for one example; None is an axis of tokens."""
        shape = self.steps.shapes[self.kept[name.removesuffix(_MASK)]][1:]
        return tuple(shape[:1] if name.endswith(_MASK) else shape)

    def row_bytes(self, tokens: float) -> float:
        """About what is kept of an example.

        Args:
            tokens: what an axis of no fixed length counts as.
        """
        made = {key: step for step in self.prefix for key in step.writes}
        return sum(_bytes(self.steps, key, tokens, made.get(key)) for key in self.kept.values())

    def ends(self) -> list[int]:
        """Which of the model's tensors are kept: their places, the same in every process."""
        keys = [*self.steps.tensors]
        return [keys.index(key) for key in self.kept.values()]

    def weights(self) -> list[keras.Variable]:
        """Of the prefix, each once."""
        return unseen((v for step in self.prefix for v in step.weights), set())


def run_prefixes(
    cuts: Sequence[Cut], x: Any, *, training: bool = False
) -> list[dict[str, tf.Tensor]]:
    """What several cuts of the same steps keep of a batch, in one pass.

    Args:
        cuts: of one `Steps`.
        x: a batch, in any form that the model takes.
        training: as in a call of the model.

    Returns:
        For each cut its arrays by name. A mask that Keras has put on one stands beside it.
    """
    wanted = {id(step) for cut in cuts for step in cut.prefix}
    steps = cuts[0].steps
    values = steps.given(x)
    for step in steps.all:
        if id(step) in wanted:
            step.run(values, training)
    found = []
    for cut in cuts:
        held = {name: values[key] for name, key in cut.kept.items()}
        masks = {name + _MASK: getattr(x, "_keras_mask", None) for name, x in held.items()}
        found.append(held | {name: x for name, x in masks.items() if x is not None})
    return found


def cut_of(steps: Steps) -> Cut:
    """Cuts a model, whose `trainable` and rates of dropout are set as it will train.

    Args:
        steps: of the model.

    Raises:
        NotCut: if nothing worth keeping is frozen.
    """
    frozen, prefix, suffix = set(steps.inputs.values()), list[Step](), list[Step]()
    for step in steps.all:
        if frozen.issuperset(step.reads) and _is_fixed(step):
            prefix.append(step)
            frozen.update(step.writes)
        else:
            suffix.append(step)
    if not suffix:
        raise NotCut("nothing in it trains")
    suffix = _give_way(steps, prefix, suffix)
    needed = _read(steps, suffix)
    prefix = _needed(prefix, needed)
    given = {step_key for step in prefix for step_key in step.writes}
    kept = [key for key in dict.fromkeys(needed) if key in given]
    inputs = {key: name for name, key in steps.inputs.items()}
    if not any(step.weights for step in prefix):
        raise NotCut("it has no frozen layers below what trains")
    return Cut(
        steps=steps,
        prefix=prefix,
        suffix=suffix,
        kept={f"kept_{i}": key for i, key in enumerate(kept)},
        passed={inputs[key]: key for key in dict.fromkeys(needed) if key in inputs},
    )


def key_of(steps: Steps, tensor: keras.KerasTensor) -> Hashable:
    """The key of a tensor of the model's own graph."""
    return next(key for key, found in steps.tensors.items() if found is tensor)


def cut_before(steps: Steps, tensor: keras.KerasTensor) -> Cut:
    """A cut of which only the prefix is wanted, that ends with a tensor of the model."""
    key = key_of(steps, tensor)
    return Cut(
        steps=steps, prefix=_needed(steps.all, [key]), suffix=[], kept={"kept_0": key}, passed={}
    )


def steps_of(model: keras.Model) -> Steps:
    """The steps of a model that can be cut.

    Raises:
        NotCut: if it is not made of a graph.
    """
    if not is_graph(model):
        raise NotCut(f"{type(model).__name__} is no functional model, but has a call of its own")
    return laid_open(model)


def _is_fixed(step: Step) -> bool:
    """Whether a step gives the same for the same input, throughout a phase."""
    if step.layer is None:
        return True
    inner = step.layer._flatten_layers()
    adds_loss = any(getattr(x, "activity_regularizer", None) is not None for x in inner)
    # By the variables: of a frozen BatchNormalization scale and offset may train.
    trains = any(v.trainable for v in step.layer.weights)
    return not (trains or is_random(step.layer) or adds_loss)


def _read(steps: Steps, suffix: Sequence[Step]) -> list[Hashable]:
    """What a suffix needs of what comes before it, in the order of its use."""
    given = {key for step in suffix for key in step.writes}
    return [
        key for key in [*(k for s in suffix for k in s.reads), *steps.outputs] if key not in given
    ]


def _needed(prefix: Sequence[Step], keys: Iterable[Hashable]) -> list[Step]:
    """The steps without which some keys would not be there."""
    wanted, found = set(keys), list[Step]()
    for step in reversed(prefix):
        if wanted.intersection(step.writes):
            wanted.update(step.reads)
            found.insert(0, step)
    return found


def _give_way(steps: Steps, prefix: Sequence[Step], suffix: Sequence[Step]) -> list[Step]:
    """The suffix, with steps without weights before it where less is then to be kept.

    What the prefix needs of these itself stays there too.
    """
    maker = {key: step for step in prefix for key in step.writes if not step.weights}
    moved: list[Step] = []
    for key in _read(steps, suffix):
        chain, best = list[Step](), 0
        ahead = [maker[key]] if key in maker and maker[key] not in moved else []
        least = _size(steps, [*moved, *suffix])
        while ahead:
            chain.append(ahead.pop(0))
            size = _size(steps, [*moved, *chain, *suffix])
            if size < least:
                least, best = size, len(chain)
            before = {id(s): s for s in map(maker.get, chain[-1].reads) if s}
            ahead += [s for s in before.values() if s not in [*moved, *chain, *ahead]]
        moved += chain[:best]
    place = {id(step): i for i, step in enumerate(steps.all)}
    return sorted([*moved, *suffix], key=lambda step: place[id(step)])


def _size(steps: Steps, suffix: Sequence[Step]) -> float:
    inputs = set(steps.inputs.values())
    kept = set(_read(steps, suffix)) - inputs
    return sum(_bytes(steps, key, _TOKENS) for key in kept)


def _bytes(steps: Steps, key: Hashable, tokens: float, made_by: Step | None = None) -> float:
    dtype = tf.as_dtype(steps.tensors[key].dtype)
    if made_by and made_by.layer is not None and dtype.is_floating:
        dtype = tf.as_dtype(made_by.layer.compute_dtype)  # other than when the graph was made
    width = np.dtype(dtype.as_numpy_dtype).itemsize
    return width * math.prod(n or tokens for n in steps.shapes[key][1:])


class Suffix(keras.Model):
    """What trains on a cut: of the same layers and variables as the whole model.

    It is called on a dict of what the cut keeps and passes on, by name.

    Args:
        cut: of the model.
        dtypes: of what is kept, as it was computed; it may have been stored in another.
        end: the key of what it gives; by default it gives what the model gives.
    """

    def __init__(self, cut: Cut, dtypes: Mapping[str, str], end: Hashable = None) -> None:
        super().__init__(name=cut.steps.model.name)
        # Inputs come in their own types, as within a graph.
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self._cut, self.dtypes, self._end = cut, dict(dtypes), end
        self._steps = cut.suffix if end is None else _needed(cut.suffix, [end])
        self.parts = unseen((s.layer for s in self._steps if s.layer is not None), set())
        names = getattr(cut.steps.model, "output_names", None)
        if end is None and names:
            self.output_names = [*names]  # Keras names losses and metrics by them
        self.built = True

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool | None = None) -> Any:
        cut = self._cut
        values: Values = {
            key: tf.cast(inputs[name], cut.steps.tensors[key].dtype)
            for name, key in cut.passed.items()
        }
        for name, key in cut.kept.items():
            values[key] = tf.cast(inputs[name], self.dtypes[name])
            if name + _MASK in inputs:
                # On a tensor of its own: what is given stays without.
                values[key] = tf.identity(values[key])
                values[key]._keras_mask = inputs[name + _MASK]
        for step in self._steps:
            step.run(values, training)
        if self._end is not None:
            return values[self._end]
        return cut.steps.packed([values[key] for key in cut.steps.outputs])

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None  # the steps have put theirs on what they give
