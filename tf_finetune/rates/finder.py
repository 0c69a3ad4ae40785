"""Looking for a learning rate: one short training at ever higher rates, without a trace.

Smith 2017, "Cyclical learning rates for training neural networks", arXiv:1506.01186. The
smoothing and the suggestions are those of fastai's `lr_find`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.fit.data_copy import Batch, batches_of, calls_python
from tf_finetune.fit.loop import adamw_of, compile_phase
from tf_finetune.fit.loss_checks import check_loss
from tf_finetune.fit.objective import Objective
from tf_finetune.fit.phased_checks import decay_and_norm
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import frozen_dropout_off, set_trainable
from tf_finetune.optim.carry import another
from tf_finetune.phase_checks import check_phase
from tf_finetune.rates.curve import RateCurve, curve_of, diverged
from tf_finetune.rates.untouched import left_as_found
from tf_finetune.value_checks import at_least, positive, whole_number

LOWEST, HIGHEST, STEPS = 1e-7, 10.0, 100
# Fewer say nothing once both ends are cut off.
_FEWEST = 20
# Of batches, in bytes: where these are few, they are used again.
_MEMORY = 2**29


def find_learning_rate(
    model: keras.Model,
    train: Any,
    phase: Phase | None = None,
    *,
    loss: Any,
    optimizer: keras.optimizers.Optimizer | None = None,
    backbone: keras.Model | str | None = None,
    batch_size: int = 32,
    weight_decay: float | None = None,
    clip: float | None = None,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    say: Callable[[str], None] = print,
) -> RateCurve:
    """Suggests a learning rate for a phase of `fit_phases`, and leaves everything as it was.

    Trains for a few steps, each at a higher rate than the one before, until the loss
    blows up. Afterwards weights, statistics, `trainable`, what `compile` set with its
    optimiser and metrics, all random states, and the order in which `train` gives its
    next epochs are bit for bit as before. What Python code of your own that a
    `tf.data.Dataset` calls remembers is the one thing out of reach; you are told then.

    Args:
        model: as in `fit_phases`; its weights must exist.
        train: as in `fit_phases`; read from its beginning, again if it is short.
        phase: what trains, by default everything; of the rest, `layer_decay` and
            `batch_norm` count.
        loss: as in `keras.Model.compile`.
        optimizer: as in `fit_phases`.
        backbone: as in `fit_phases`.
        batch_size: of arrays.
        weight_decay: as in `fit_phases`.
        clip: as in `fit_phases`.
        lowest: rate of the first step.
        highest: rate of the last step.
        steps: updates from one to the other, evenly by the rate's logarithm.
        say: where lines for people go.

    Returns:
        Rates and losses, the suggestion, and a plot.

    Raises:
        UserError: for a mistake in the arguments, a model without weights, or data
            whose order could not be kept.
    """
    phase = phase or Phase(train="all")
    check_phase(phase, "phase")
    rates = _rates(lowest, highest, steps)
    decay, norm = decay_and_norm(weight_decay, clip, optimizer, [phase])
    whole_number("batch_size", batch_size, 1)
    if not model.built:
        raise UserError(
            f'the model "{model.name}" has no weights yet; call it on a batch of inputs first, so '
            "that they are the same with and without this."
        )
    check_loss(model, loss, train)
    if calls_python(train):
        say(
            "train calls Python code; should that remember something from epoch to epoch, such "
            "as a random state of its own, then reading it here has changed what comes next"
        )
    groups = layer_groups(model, backbone)
    # The rate is set before each step, so it must not be a schedule.
    flat = dataclasses.replace(phase, schedule="plateau")
    with left_as_found(model):
        set_trainable(groups, phase.train, phase.batch_norm)
        chosen = (
            another(optimizer, phase.learning_rate, {})
            if optimizer is not None
            else adamw_of(flat, steps, groups, weight_decay=decay, clip=norm)
        )
        with frozen_dropout_off(groups), contextlib.closing(batches_of(train, batch_size)) as own:
            losses = sweep(model, own, rates, Objective(loss=loss), chosen)
    curve = curve_of(rates.tolist(), losses)
    say(curve.summary())
    return curve


def sweep(
    model: keras.Model,
    batches: Iterator[Batch],
    rates: np.ndarray,
    objective: Objective,
    optimizer: keras.optimizers.Optimizer,
) -> list[float]:
    """The loss of one step at each rate, until it diverges.

    Batches differ by more than a step changes; so from each loss is taken what its batch
    had above the mean before the sweep.

    Compiles and trains the model; put it into `left_as_found`.

    Args:
        model: with `trainable` set.
        batches: without end.
        rates: of the steps.
        objective: whose loss is meant.
        optimizer: not built yet, and without a schedule.
    """
    compile_phase(model, optimizer, dataclasses.replace(objective, metrics=None))
    held = _held(batches, len(rates))
    before = [_loss(model.test_on_batch(*batch, return_dict=True)) for batch in held]
    mean = float(np.mean(before))
    losses: list[float] = []
    for i, rate in enumerate(rates):
        optimizer.learning_rate = float(rate)
        batch = i % len(held)
        found = _loss(model.train_on_batch(*held[batch], return_dict=True))
        losses.append(found - before[batch] + mean)
        if diverged(losses):
            break
    return losses


def _loss(logs: Any) -> float:
    return float(np.asarray(logs["loss"]))


def _held(batches: Iterator[Batch], most: int) -> list[Batch]:
    """The first batches, as many as are needed or fit into memory."""
    held: list[Batch] = []
    size = 0
    for batch in itertools.islice(batches, most):
        held.append(batch)
        size += sum(
            np.asarray(part).nbytes for part in keras.tree.flatten(batch) if part is not None
        )
        if size > _MEMORY:
            break
    return held


def _rates(lowest: float, highest: float, steps: int) -> np.ndarray:
    positive("lowest", lowest)
    positive("highest", highest)
    at_least("steps", steps, _FEWEST)
    if highest <= lowest:
        raise UserError(f"highest is {highest:g}; it must be above lowest, which is {lowest:g}.")
    return np.geomspace(lowest, highest, steps)
