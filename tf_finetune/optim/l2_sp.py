"""Pretrained weights held near the values that they start with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.model.freezing import lora_layers, set_trainable

if TYPE_CHECKING:
    from tf_finetune.model.blocks import Groups

_KEY = "anchor_"

# Variables, and the values that they are pulled to.
Anchors = Sequence[tuple[keras.Variable, Any]]


def anchors_of(
    groups: Groups, phases: Sequence[Phase], l2_sp: float, name: str = "l2_sp"
) -> list[tuple[keras.Variable, tf.Tensor]]:
    """The pretrained variables that some phase trains, with the values they have now.

    Biases and norms are among them: they are not decayed because 0 means nothing to
    them, but the value that they start with does. `trainable` is left as the last phase
    has it.

    Args:
        groups: of a whole model, before it trains.
        phases: of the run.
        l2_sp: how strong the pull is to be; without one there is nothing to hold.
        name: of the setting, for messages.

    Raises:
        UserError: if the model has adapters, or no phase trains pretrained weights.
    """
    if not l2_sp:
        return []
    if lora_layers(groups.model):
        raise UserError(
            f"{name} is {l2_sp:g}, but the model has adapters, which start at zero and leave "
            f"the pretrained weights as they are. Set {name} to 0, or merge the adapters first."
        )
    opened: set[int] = set()
    for phase in phases:
        set_trainable(groups, phase.train, phase.batch_norm)
        opened |= {id(v) for v in groups.model.trainable_weights}
    pretrained = [v for part in groups.weights()[:-1] for v in part if id(v) in opened]
    if not pretrained:
        raise UserError(
            f"{name} is {l2_sp:g}, but no phase trains pretrained weights, which it holds; set it "
            "to 0, or let a phase train more than the head."
        )
    # The tensor is shared with the variable until that changes, and then the only copy.
    return [(v, tf.identity(v.value)) for v in pretrained]


class Pull:
    """The anchors of an optimiser's variables, in an object that TensorFlow does not track.

    Args:
        pairs: given before the optimiser is built; they may hold more than it trains.
    """

    def __init__(self, pairs: Anchors) -> None:
        self._pairs = pairs
        self._count = 0
        # For each variable; None while they are still to be read from a file.
        self._placed: list[tf.Tensor | None] | None = None

    def place(self, variables: Sequence[keras.Variable]) -> None:
        """Finds those of an optimiser's variables.

        Raises:
            UserError: if one has another shape than its variable.
        """
        self._count = len(variables)
        if not len(self._pairs):
            return
        values = {id(variable): value for variable, value in self._pairs}
        with tf.init_scope():  # Keras may build the optimiser while it traces
            self._placed = [_like(v, values[id(v)]) if id(v) in values else None for v in variables]

    def anchors(self, l2_sp: float) -> list[tf.Tensor | None]:
        """One for each variable; None for those without.

        Raises:
            UserError: if they are needed, but were neither given nor loaded.
        """
        if self._placed is None and l2_sp:
            raise UserError(
                f"l2_sp is {l2_sp:g}, but the optimiser was given no anchors to pull to; give "
                "them to a new one (load a model with compile=False)."
            )
        return self._placed or [None] * self._count

    def save(self, store: Any) -> None:
        """Adds them to the file of an optimiser's state."""
        for i, anchor in enumerate(self._placed or ()):
            if anchor is not None:
                store[f"{_KEY}{i}"] = anchor.numpy()

    def load(self, store: Any, variables: int) -> dict[str, Any]:
        """Takes them from such a file, unless they were given; returns the rest of it.

        Args:
            store: by name.
            variables: how many the rest must hold to be this optimiser's.
        """
        rest = {key: store[key] for key in store.keys() if not key.startswith(_KEY)}  # noqa: SIM118
        if len(rest) == variables and not len(self._pairs):
            held = {int(key.removeprefix(_KEY)): store[key] for key in {*store.keys()} - {*rest}}
            self._placed = [
                tf.constant(held[i], "float32") if i in held else None for i in range(self._count)
            ]
        return rest


def _like(variable: keras.Variable, value: Any) -> tf.Tensor:
    value = tf.convert_to_tensor(value, "float32")
    if tuple(value.shape) != tuple(variable.shape):
        raise UserError(
            f"anchors has a value of shape {tuple(value.shape)} for {variable.path}, whose shape "
            f"is {tuple(variable.shape)}; give the variable's own value."
        )
    return value
