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
from tf_finetune.fit.cutmix import draw_patches
from tf_finetune.fit.distribution import check_alike, repaired
from tf_finetune.fit.lean_dropout import lean_dropout
from tf_finetune.fit.micro_batch import in_parts
from tf_finetune.fit.mixup import Mixture, draw
from tf_finetune.fit.part_loss import compiled_loss, loss_of_part, own_losses, tracked_losses
from tf_finetune.fit.r_drop import Disagreement
from tf_finetune.fit.replicas import count_of, replicated, summed
from tf_finetune.fit.step_checks import check_step
from tf_finetune.fit_settings import FitConfig
from tf_finetune.model.freezing import drops
from tf_finetune.model.headed import HeadedTask


@dataclasses.dataclass(slots=True, kw_only=True, frozen=True)
class Step:
    """How an update is made of a batch; the default is Keras's own train step.

    Attributes:
        micro_batch: examples that go through the network at a time; 0 means all.
        r_drop: weight of `Disagreement` between two passes, where dropout makes them
            differ; their losses count half each.
        mixup: alpha of `mixup.draw`; 0 mixes nothing. In a micro-batch the other example
            is one of it. What is drawn from has its state among the `variables` of the
            model, as the generators of dropout have.
        cutmix: alpha of `cutmix.draw_patches`, as `mixup`, of a model that takes pictures;
            not both.
        body: for mixup, from inputs to the vectors that are mixed; None where the
            model takes these.
        head: for mixup, from there to outputs; None where that is the model.
        seed: of mixup and CutMix; None draws one by Keras's own.
    """

    micro_batch: int = 0
    r_drop: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    body: keras.Model | None = None
    head: keras.Model | None = None
    seed: int | None = 0

    @property
    def settings(self) -> str:
        """Those that are set, for a message; empty for Keras's own step."""
        named = {"micro_batch": self.micro_batch, "r_drop": self.r_drop}
        named |= {"mixup": self.mixup, "cutmix": self.cutmix}
        return " and ".join(f"{name} is {value}" for name, value in named.items() if value)


KERAS = Step()


def step_of(
    task: HeadedTask, network: keras.Model, fit: FitConfig, body: keras.Model | None = None
) -> Step:
    """The step of a run's phase.

    Args:
        task: of the run.
        network: what trains: the task's `network`, its `head`, or what lies above a cut.
        fit: of the run.
        body: above a cut, from there to what goes into the head.
    """
    return Step(
        micro_batch=fit.micro_batch,
        r_drop=fit.r_drop,
        mixup=fit.mixup,
        # A head alone takes no pictures, but features of them as they are.
        cutmix=fit.cutmix if network is task.network else 0.0,
        body=task.encoder if network is task.network else body,
        head=task.head,
        seed=fit.seed,
    )


@contextlib.contextmanager
def training_by(model: keras.Model, step: Step) -> Iterator[None]:
    """Within it, `fit` and `train_on_batch` of a compiled model train by `step`.

    Afterwards the model has nothing of it left.

    Raises:
        UserError: as `check_step` does; from `fit`, before the first update, for a loss
            that is not fit for it.
        AuditError: at the end, if replicas have come to different weights.
    """
    if not step.settings and not replicated():
        with lean_dropout():
            yield
        return
    check_step(model, step)
    if not drops(model):  # a second pass would be the first again
        step = dataclasses.replace(step, r_drop=0.0)
    generator = keras.random.SeedGenerator(step.seed, name="mixup")
    model._seed_generators.append(generator)  # what goes back or resumes finds it there
    try:
        model.train_step = functools.partial(_train_step, model, step, generator)
        model.train_function = None
        repair = repaired(model, model.train_step, functools.partial(_test_step, model))
        with lean_dropout(), repair:
            yield
        check_alike(model)
    finally:
        model._seed_generators.remove(generator)
        del model.train_step
        model.train_function = None  # it holds the step
        if replicated():
            model.test_function = None


def evaluating(model: keras.Model) -> contextlib.AbstractContextManager[None]:
    """Within it, `evaluate` of a compiled model counts each example once on any strategy."""
    return repaired(model, None, functools.partial(_test_step, model))


def _train_step(
    model: Any,
    step: Step,
    generator: keras.random.SeedGenerator,
    data: Any,
    whole: tf.Tensor | None = None,
) -> dict[str, Any]:
    """As `keras.Model.train_step`: one update, then the metrics so far.

    `whole` is what the rows here are of the whole batch, where others are elsewhere.
    """
    x, y, sample_weight = batch = keras.utils.unpack_x_y_sample_weight(data)
    variables = model.trainable_weights
    model._symbolic_build(data_batch=data)  # the losses for each output, where not yet known

    def work(part: Any, share: tf.Tensor | None) -> tuple[list[Any], Any]:
        if whole is not None:
            share = whole if share is None else share * whole
        with tf.GradientTape() as tape:
            loss, y_pred = _forward(model, step, generator, part, share)
            scaled = model.optimizer.scale_loss(loss)
        return [loss, *map(_shaped, tape.gradient(scaled, variables), variables)], y_pred

    (loss, *gradients), y_pred = (
        in_parts(work, batch, step.micro_batch) if step.micro_batch else work(batch, None)
    )
    if whole is not None:
        gradients = summed(gradients)
    with tf.GradientTape() as tape:  # once, not once a part
        penalties = [v.regularizer(v) for v in variables if v.regularizer is not None]
        penalty = tf.add_n(penalties) if penalties else tf.constant(0.0)
        scaled = model.optimizer.scale_loss(penalty)
    for i, more in enumerate(tape.gradient(scaled, variables)):
        if more is not None:
            gradients[i] = more if gradients[i] is None else more + gradients[i]
    _track(model, batch, y_pred, loss, penalty, whole)
    model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _test_step(model: Any, data: Any, whole: tf.Tensor) -> dict[str, Any]:
    """As `keras.Model.test_step`, for a part of a batch as in `_train_step`."""
    x, y, sample_weight = batch = keras.utils.unpack_x_y_sample_weight(data)
    y_pred = model(x, training=False) if model._call_has_training_arg else model(x)
    loss = compiled_loss(model._compile_loss, whole)(y, y_pred, sample_weight)
    loss += own_losses(model, whole)
    penalties = [v.regularizer(v) for v in model.trainable_weights if v.regularizer is not None]
    _track(model, batch, y_pred, loss, tf.add_n(penalties) if penalties else 0.0, whole)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def _track(
    model: Any, batch: Any, y_pred: Any, loss: tf.Tensor, penalty: Any, whole: tf.Tensor | None
) -> None:
    """Takes losses into the epoch's means, in which each row counts once."""
    x, y, sample_weight = batch
    if model._compile_loss.metrics:  # of single outputs
        tracked_losses(model._compile_loss, whole)(y, y_pred, sample_weight)
    if whole is not None:
        loss = tf.math.divide_no_nan(loss, whole)
    model._loss_tracker.update_state(loss + penalty, sample_weight=count_of(x))


def _forward(
    model: Any,
    step: Step,
    generator: keras.random.SeedGenerator,
    part: Any,
    share: tf.Tensor | None,
) -> tuple[tf.Tensor, Any]:
    """The loss and the outputs of a part of a batch, or of the whole where `share` is None."""
    x, y, sample_weight = part
    losses = compiled_loss(model._compile_loss, share)
    mixture: Mixture | None = None
    if step.mixup:
        mixture = draw(step.mixup, count_of(x), generator)
    elif step.cutmix:
        mixture = draw_patches(step.cutmix, x, generator)
    targets = mixture.targets(y, sample_weight) if mixture else [(1.0, y, sample_weight)]
    passes: list[Any] = []
    total = tf.constant(0.0)
    count = 2 if step.r_drop else 1
    for _ in range(count):
        network, given = model, x
        if step.mixup and mixture:
            given = mixture.rows(step.body(x, training=True) if step.body else x)
            network = step.head or model
        elif mixture:
            given = mixture.rows(x)
        training = {"training": True} if network._call_has_training_arg else {}
        passes.append(network(given, **training))
        total += own_losses(model, share) / count
    for weight, y_true, weights in targets:
        for y_pred in passes:
            total += weight * losses(y_true, y_pred, weights) / count
        if step.r_drop:
            total += weight * step.r_drop * _disagreement(model, passes, weights, share)
    return total, passes[0]


def _disagreement(
    model: Any, passes: list[Any], sample_weight: Any, share: tf.Tensor | None
) -> tf.Tensor:
    """Of two passes, with the weights that examples and outputs have in the loss."""
    losses = model._compile_loss._flat_losses
    if len(losses) != 1 or tf.nest.is_nested(passes[0]):
        raise UserError(
            f"r_drop compares the output of two passes, but the model {model.name} has several "
            "outputs or losses; set r_drop to 0."
        )
    first, second = passes
    found = loss_of_part(Disagreement(losses[0].loss), share, first, second, sample_weight)
    weight = losses[0].loss_weights
    return found if weight is None else found * weight


def _shaped(gradient: Any, variable: keras.Variable) -> Any:
    """A gradient that knows its shape, which some operations lose."""
    if isinstance(gradient, tf.IndexedSlices):
        shape = tf.constant(list(variable.shape))
        return tf.IndexedSlices(gradient.values, gradient.indices, shape)
    return gradient if gradient is None else tf.ensure_shape(gradient, variable.shape)
