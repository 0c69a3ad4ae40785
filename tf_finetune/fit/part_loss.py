"""The losses of a part of a batch, as they count in those of the whole."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.errors import UserError

_MEANS = ("sum_over_batch_size", "mean")
# The rows of a batch depend on each other, though each has a loss of its own.
_COUPLED = (keras.losses.Circle,)
# Sums over these axes, of which the first are the rows.
_BY_AXES = (keras.losses.Dice, keras.losses.Tversky)
_ADD_UP = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


def compiled_loss(compile_loss: Any, share: tf.Tensor | None) -> Any:
    """The losses that a model was compiled with, for a part of a batch.

    It leaves alone the figures of single losses that Keras tracks.

    Args:
        compile_loss: of the model, built.
        share: of the batch's examples that the part has; None where it is the whole.
    """
    parts = _alike(compile_loss)
    parts._metrics = [_Ignored() for _ in compile_loss._metrics]
    if share is not None:
        parts._flat_losses = [
            each._replace(loss=functools.partial(loss_of_part, each.loss, share))
            for each in compile_loss._flat_losses
        ]
    return parts


def tracked_losses(compile_loss: Any, share: tf.Tensor | None) -> Any:
    """The same, but for the figures of single losses alone, which it updates.

    They are means over batches: the parts of one count as often as one.

    Args:
        compile_loss: as in `compiled_loss`.
        share: as in `compiled_loss`.
    """
    if share is None:
        return compile_loss
    parts = compiled_loss(compile_loss, share)
    parts._metrics = [_OfPart(metric, share) for metric in compile_loss._metrics]
    return parts


def loss_of_part(
    loss: keras.losses.Loss,
    share: tf.Tensor | None,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
) -> tf.Tensor:
    """One loss, for a part of a batch as in `compiled_loss`.

    Raises:
        UserError: if it is not a sum or a mean over examples.
    """
    if share is None:
        return loss(y_true, y_pred, sample_weight)
    each = _alike(loss)
    each.reduction = "none"
    values = each(y_true, y_pred, sample_weight)
    # What is ignored counts as masked: Keras's mean is over the rest.
    ignores = (getattr(loss, "_fn_kwargs", None) or {}).get("ignore_class") is not None
    masked = ignores or getattr(y_pred, "_keras_mask", None) is not None
    coupled = isinstance(loss, _COUPLED) or (
        isinstance(loss, _BY_AXES) and 0 in keras.tree.flatten(loss.axis)
    )
    known = loss.reduction in (*_MEANS, "sum") and not coupled
    if masked or not known or not values.shape.rank:
        what = f'with reduction "{loss.reduction}"'
        if masked:
            what = "with ignore_class" if ignores else "of masked outputs"
        raise UserError(
            f"loss {loss.name} {what} is not known to be a sum or a mean over examples, which "
            "parts of a batch could be added up to; use one with a value for each example, or "
            "set micro_batch to 0 and train on one device."
        )
    total = tf.reduce_sum(values)
    if loss.reduction == "sum":
        return total
    count = tf.maximum(tf.size(values), 1)  # a replica may have no rows
    return total / tf.cast(count, total.dtype) * tf.cast(share, total.dtype)


def own_losses(model: keras.Model, share: tf.Tensor | None) -> tf.Tensor:
    """What layers have added to the loss in the last call, for a part of a batch.

    Raises:
        UserError: for anything but the regularisers of activities that Keras has, which
            are known to be means over examples.
    """
    found: list[tf.Tensor] = []
    for layer in model._flatten_layers():
        losses = layer._get_own_losses()
        stock = type(layer).__module__.partition(".")[0] == "keras"
        adds_up = stock and type(layer.activity_regularizer) in _ADD_UP
        if losses and share is not None and not adds_up:
            raise UserError(
                f"the layer {layer.name} has a loss of its own (add_loss), of which it is not "
                "known how it adds up over parts of a batch; make it part of the loss, or set "
                "micro_batch to 0 and train on one device."
            )
        found += [tf.reduce_sum(loss) for loss in losses]
    total = tf.add_n(found) if found else tf.constant(0.0)
    # A mean over no rows is none, but counts nothing.
    return total if share is None else tf.math.multiply_no_nan(total, share)


def _alike(given: Any) -> Any:
    """A shallow copy; Keras's own way to copy goes by the configuration."""
    made = object.__new__(type(given))
    made.__dict__.update(vars(given))
    return made


class _OfPart:
    """In place of a metric, whose values Keras has multiplied by the number of replicas."""

    def __init__(self, metric: Any, share: tf.Tensor) -> None:
        self._metric, self._share = metric, share

    def update_state(self, value: tf.Tensor, sample_weight: Any = None) -> None:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        mean = tf.math.divide_no_nan(value, self._share * replicas)
        self._metric.update_state(mean, sample_weight=self._share)


class _Ignored:
    """In place of a metric."""

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        pass
