"""A train step in place of Keras's own, while a phase trains."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.fit.examples import Examples
from tf_finetune.fit.micro_batch import in_parts
from tf_finetune.value_checks import at_least, at_most_batch

_MEANS = ("sum_over_batch_size", "mean")
# Of these the rows of a batch depend on each other, though each has a loss of its own.
_COUPLED = (keras.losses.Circle,)
_KEEPS_STATISTICS = (keras.layers.BatchNormalization, keras.layers.SpectralNormalization)
_SUMS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


@dataclasses.dataclass(slots=True, kw_only=True, frozen=True)
class Step:
    """How an update is made of a batch; the default is Keras's own train step.

    Attributes:
        micro_batch: examples that go through the network at a time; 0 means all.
    """

    micro_batch: int = 0


KERAS = Step()


def check_batch(step: Step, examples: Examples) -> None:
    """Raises `UserError` where parts of a batch would be larger than it, or of no size."""
    if type(step.micro_batch) is not int:
        raise UserError(f"micro_batch is {step.micro_batch!r}; it must be a whole number.")
    at_least("micro_batch", step.micro_batch, 0)
    train = examples.train["x"]
    batch = examples.train.get("batch_size")
    if isinstance(train, tf.data.Dataset):
        shape = tf.nest.flatten(train.element_spec)[0].shape
        batch = shape[0] if shape.rank else None
    if batch:  # a data set may not tell
        at_most_batch("micro_batch", step.micro_batch, batch)


def check_step(model: keras.Model, step: Step) -> None:
    """Raises `UserError` where a model, whose `trainable` is set, cannot train by `step`."""
    if step == KERAS:
        return
    for method in ("train_step", "compute_loss"):
        if getattr(getattr(model, method), "__func__", None) is not getattr(keras.Model, method):
            raise UserError(
                f"micro_batch is {step.micro_batch}, but the model {type(model).__name__} has a "
                f"{method} of its own, which takes whole batches; set micro_batch to 0, or use "
                f"Keras's own {method}."
            )
    for layer in model._flatten_layers():
        if isinstance(layer, _KEEPS_STATISTICS) and layer.trainable:
            raise UserError(
                f"micro_batch is {step.micro_batch}, but the layer {layer.name}, a "
                f"{type(layer).__name__} that trains, would see the statistics of parts of a "
                'batch; freeze it (batch_norm="freeze" in the Phase, where it is in the '
                "backbone), or set micro_batch to 0."
            )


@contextlib.contextmanager
def training_by(model: keras.Model, step: Step) -> Iterator[None]:
    """Within it, `fit` and `train_on_batch` of a compiled model train by `step`.

    Afterwards the model has nothing of it left.

    Raises:
        UserError: as `check_step` does; from `fit`, before the first update, for a loss
            that is not a sum or mean over examples.
    """
    if step == KERAS:
        yield
        return
    check_step(model, step)
    try:
        model.train_step = functools.partial(_train_step, model, step)
        model.train_function = None
        yield
    finally:
        del model.train_step
        model.train_function = None  # it holds the step


def _train_step(model: Any, step: Step, data: Any) -> dict[str, Any]:
    """As `keras.Model.train_step`: one update, then the metrics so far."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    variables = model.trainable_weights
    model._symbolic_build(data_batch=data)  # the losses for each output, where not yet known

    def work(part: Any, share: tf.Tensor) -> tuple[list[Any], Any]:
        x, y, sample_weight = part
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True) if model._call_has_training_arg else model(x)
            own = _own_losses(model) * share
            loss = _shared(model._compile_loss, share)(y, y_pred, sample_weight) + own
            loss = model.optimizer.scale_loss(loss)
        gradients = map(_shaped, tape.gradient(loss, variables), variables)
        return [own, *gradients], y_pred

    (own, *gradients), y_pred = in_parts(work, (x, y, sample_weight), step.micro_batch)
    with tf.GradientTape() as tape:
        regular = [v.regularizer(v) for v in variables if v.regularizer is not None]
        penalty = tf.add_n(regular) if regular else tf.constant(0.0)
        scaled = model.optimizer.scale_loss(penalty)
    for i, extra in enumerate(tape.gradient(scaled, variables)):
        if extra is not None:
            gradients[i] = extra if gradients[i] is None else extra + gradients[i]
    loss = model._compile_loss(y, y_pred, sample_weight) + own + penalty
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    examples = tf.shape(next(t for t in tf.nest.flatten(x) if t is not None))[0]
    model._loss_tracker.update_state(loss * replicas, sample_weight=examples)
    model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _shaped(gradient: Any, variable: keras.Variable) -> Any:
    """A gradient that knows its shape, which some operations lose."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(
            gradient.values, gradient.indices, tf.constant(list(variable.shape))
        )
    return gradient if gradient is None else tf.ensure_shape(gradient, variable.shape)


def _own_losses(model: keras.Model) -> tf.Tensor:
    """What layers have added to the loss themselves: means over the examples.

    Raises:
        UserError: for anything but the regularisers of activities that Keras has, which
            are known to be such means.
    """
    found: list[tf.Tensor] = []
    for layer in model._flatten_layers():
        losses = layer._get_own_losses()
        stock = type(layer).__module__.partition(".")[0] == "keras"
        if losses and not (stock and type(layer.activity_regularizer) in _SUMS):
            raise UserError(
                f"the layer {layer.name} has a loss of its own (add_loss), of which it is not "
                "known how it adds up over parts of a batch; set micro_batch to 0, or make it "
                "part of the loss."
            )
        found += losses
    return tf.add_n(found) if found else tf.constant(0.0)


def _shared(compile_loss: Any, share: tf.Tensor) -> Any:
    """A model's losses on a part of a batch, as they count in those of the whole.

    The figures of single losses, which Keras tracks, are left alone.
    """
    parts = _alike(compile_loss)
    parts._flat_losses = [
        each._replace(loss=functools.partial(_loss_of_part, each.loss, share))
        for each in compile_loss._flat_losses
    ]
    parts._metrics = [_Ignored() for _ in compile_loss._metrics]
    return parts


def _alike(given: Any) -> Any:
    """A shallow copy; Keras's own way to copy goes by the configuration."""
    made = object.__new__(type(given))
    made.__dict__.update(vars(given))
    return made


class _Ignored:
    """In place of a metric."""

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        pass


def _loss_of_part(
    loss: keras.losses.Loss, share: tf.Tensor, y_true: Any, y_pred: Any, sample_weight: Any
) -> tf.Tensor:
    each = _alike(loss)
    each.reduction = "none"
    values = each(y_true, y_pred, sample_weight)
    masked = getattr(y_pred, "_keras_mask", None) is not None
    known = loss.reduction in (*_MEANS, "sum") and not isinstance(loss, _COUPLED)
    if masked or not known or not values.shape.rank:
        what = "of masked outputs" if masked else f'with reduction "{loss.reduction}"'
        raise UserError(
            f"loss {loss.name} {what} is not known to be a sum or a mean over examples, which "
            "parts of a batch could be added up to; use one with a value for each example, or "
            "set micro_batch to 0."
        )
    total = tf.reduce_sum(values)
    if loss.reduction == "sum":
        return total
    # Keras adds gradients up over replicas.
    count = tf.size(values) * tf.distribute.get_strategy().num_replicas_in_sync
    return total / tf.cast(count, total.dtype) * tf.cast(share, total.dtype)
