"""How the learning rate goes up and down over a phase."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.phase_checks import SCHEDULES
from tf_finetune.value_checks import one_of

__all__ = ["SCHEDULES", "PiecewiseLinear", "rate_schedule"]

# Howard & Ruder 2018: how much smaller the lowest rate is than the highest.
_SLANTED_RATIO = 32
# Smith 2018: a single cycle ends a factor of 10 to 20 below its peak, and what remains
# of the training, here a fifth of what follows the peak, falls by orders of magnitude.
_CYCLE_RATIO, _CYCLE_SHARE = 10, 0.8


@keras.saving.register_keras_serializable("tf_finetune")
class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Straight lines between given points; before the first and after the last, flat.

    Args:
        steps: optimiser updates, counted from 0, in increasing order.
        rates: at these.
    """

    def __init__(self, steps: Sequence[float], rates: Sequence[float]) -> None:
        self.steps, self.rates = [float(s) for s in steps], [float(r) for r in rates]

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.maximum(tf.cast(step, tf.float32), self.steps[0])
        rate = tf.constant(self.rates[-1])
        lines = list(itertools.pairwise(zip(self.steps, self.rates, strict=True)))
        for (start, low), (end, high) in reversed(lines):
            line = low + (high - low) * ((step - start) / (end - start))
            rate = tf.where(step < end, line, rate)
        return rate

    def get_config(self) -> dict:
        return {"steps": self.steps, "rates": self.rates}


def rate_schedule(
    name: str, peak: float, warmup_steps: int, total_steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The rate of each optimiser update, counted from 0.

    All rise in a straight line to the peak, which update number `warmup_steps` has,
    and, but for `slanted_triangular`, as if from 0 at the update before the first:
    that one has a rate above 0, and the last one too, for no update is to be wasted.
    Then:

    - `linear` falls in a straight line to 0, as BERT was fine-tuned (Devlin et al.
      2019, arXiv:1810.04805).
    - `cosine` falls to 0 along half a cosine (Loshchilov & Hutter 2017,
      arXiv:1608.03983).
    - `one_cycle` falls in a straight line to a tenth of the peak, and from there in
      the last fifth to 0 (Smith 2018, arXiv:1803.09820). Smith's cycle rises as long as
      it falls: a warm-up of 0.45 of all updates.
    - `slanted_triangular` rises from 1/32 of the peak and falls to it again (Howard &
      Ruder 2018, arXiv:1801.06146); they warm up for a tenth of all updates.
    - `constant` stays.

    `plateau` is a constant rate that `keras.callbacks.ReduceLROnPlateau` lowers. Keras
    cannot lower a schedule, so there is none for it: give the optimiser the number.

    Args:
        name: one of `SCHEDULES`.
        peak: the highest rate.
        warmup_steps: updates before the one with the peak.
        total_steps: all updates of the training.

    Returns:
        A schedule that can be saved with its optimiser.

    Raises:
        UserError: for a name that is unknown or `plateau`, a peak that is no number
            above 0, or a warm-up that is as long as the training.
    """
    one_of("schedule", name, SCHEDULES)
    if name == "plateau":
        raise UserError(
            'schedule is "plateau", which keras.callbacks.ReduceLROnPlateau makes of a constant '
            f"rate; set the optimiser's learning_rate to {peak:g} itself."
        )
    if not math.isfinite(peak) or peak <= 0:
        raise UserError(f"peak is {peak}; the highest rate must be a number above 0.")
    if not 0 <= warmup_steps < total_steps:
        raise UserError(
            f"warmup_steps is {warmup_steps}, but there are {total_steps} updates in all "
            "(total_steps); it must be at least 0 and below that. Shorten the warm-up, or train "
            "longer."
        )
    if name == "cosine":
        return _cosine(peak, warmup_steps, total_steps)
    points = [(-1.0, 0.0), (warmup_steps, peak)]
    if name == "linear":
        points += [(total_steps, 0.0)]
    elif name == "one_cycle":
        end = warmup_steps + _CYCLE_SHARE * (total_steps - warmup_steps)
        points += [(end, peak / _CYCLE_RATIO), (total_steps, 0.0)]
    elif name == "slanted_triangular":
        low = peak / _SLANTED_RATIO
        points = [(0.0, low)] * (warmup_steps > 0) + [(warmup_steps, peak), (total_steps, low)]
    steps, rates = zip(*points, strict=True)
    return PiecewiseLinear(steps, rates)


def check_warm_up(optimizer: keras.optimizers.Optimizer | None, updates: int) -> None:
    """Raises `UserError` for a warm-up of each variable that training ends in.

    Args:
        optimizer: with or without `warmup_steps`, as `LayerwiseAdamW` has.
        updates: of what trains for the fewest of them.
    """
    steps = getattr(optimizer, "warmup_steps", 0)
    if steps and steps >= updates:
        raise UserError(
            f"the optimizer has warmup_steps={steps}, but what opens last trains for {updates} "
            "updates, of which none would have the full rate; lower it, or train longer."
        )


def _cosine(
    peak: float, warmup_steps: int, total_steps: int
) -> keras.optimizers.schedules.CosineDecay:
    if not warmup_steps:
        return keras.optimizers.schedules.CosineDecay(peak, total_steps)
    return keras.optimizers.schedules.CosineDecay(
        peak / (warmup_steps + 1),
        total_steps - warmup_steps,
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )
