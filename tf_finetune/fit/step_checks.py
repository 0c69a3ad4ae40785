"""What a train step of ours cannot do, said before the first update."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.fit.replicas import replicated
from tf_finetune.value_checks import at_least, at_most_batch

if TYPE_CHECKING:
    from tf_finetune.fit.examples import Examples
    from tf_finetune.fit.steps import Step

_KEEPS_STATISTICS = (keras.layers.BatchNormalization, keras.layers.SpectralNormalization)


def check_batch(step: Step, examples: Examples) -> None:
    """Raises `UserError` where parts of a batch would be larger than it, or of no size."""
    if type(step.micro_batch) is not int:
        raise UserError(f"micro_batch is {step.micro_batch!r}; it must be a whole number.")
    at_least("micro_batch", step.micro_batch, 0)
    at_least("r_drop", step.r_drop, 0)
    at_least("mixup", step.mixup, 0)
    train = examples.train["x"]
    batch = examples.train.get("batch_size")
    if isinstance(train, tf.data.Dataset):
        shape = tf.nest.flatten(train.element_spec)[0].shape
        batch = shape[0] if shape.rank else None
    if batch:  # a data set may not tell
        at_most_batch("micro_batch", step.micro_batch, batch)
    if step.mixup and 1 in (step.micro_batch, batch):
        raise UserError(
            f"mixup is {step.mixup}, but a batch or micro_batch of 1 leaves no other example to "
            "mix with; raise that, or set mixup to 0."
        )


def own_of(model: keras.Model, names: Sequence[str]) -> list[str]:
    """Of these methods and properties of `keras.Model`, those that a model has its own of."""
    found = []
    for name in names:
        theirs = getattr(keras.Model, name)
        if isinstance(theirs, property):
            ours = getattr(type(model), name)
        else:
            ours = getattr(getattr(model, name), "__func__", None)
        if ours is not theirs:
            found.append(name)
    return found


def check_step(model: keras.Model, step: Step) -> None:
    """Raises `UserError` where a model, whose `trainable` is set, cannot train by `step`."""
    own = own_of(model, ("train_step", "test_step", "compute_loss"))
    if own and replicated():
        raise UserError(
            f"the model {type(model).__name__} has a {own[0]} of its own, which would see parts of "
            f"batches as whole ones under a strategy; use Keras's own {own[0]}, or one device."
        )
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.SpectralNormalization) and not layer.trainable:
            raise UserError(
                f"the layer {layer.name}, a SpectralNormalization, changes its kernel in each "
                "step of training, though it is frozen; train it too (from:, last:K or re: in the "
                "Phase), or take its layer out of the wrapper."
            )
    if not step.settings:
        return
    for method in own:
        if method != "test_step":
            raise UserError(
                f"{step.settings}, but the model {type(model).__name__} has a {method} of its "
                f"own, which takes whole batches; set it to 0, or use Keras's own {method}."
            )
    for layer in model._flatten_layers() if step.micro_batch else ():
        if isinstance(layer, _KEEPS_STATISTICS) and layer.trainable:
            raise UserError(
                f"micro_batch is {step.micro_batch}, but the layer {layer.name}, a "
                f"{type(layer).__name__} that trains, would see the statistics of parts of a "
                'batch; freeze it (batch_norm="freeze" in the Phase, where it is in the '
                "backbone), or set micro_batch to 0."
            )


def check_noise(step: Step, noisy: Iterable[bool]) -> None:
    """Raises `UserError` for R-Drop where none of some phases has dropout."""
    if step.r_drop and not any(noisy):
        raise UserError(
            f"r_drop is {step.r_drop}, but there is no dropout in what trains, so that two passes "
            "would be the same; put dropout in (config.model.dropout), or set r_drop to 0."
        )
