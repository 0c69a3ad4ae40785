"""Weights averaged over the updates of a phase."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.checkpoints.files import Arrays, Facts
from tf_finetune.errors import UserError
from tf_finetune.fit.audit import kept_beside
from tf_finetune.value_checks import fraction


class AveragedWeights(keras.callbacks.Callback):
    """Judges and ends each epoch with averaged weights, and trains on from the raw ones.

    The average (Polyak & Juditsky 1992; Izmailov et al. 2018, arXiv:1803.05407) is
    exponential, with momentum min(`momentum`, (1 + t) / (10 + t)) at the t-th update, so
    that it forgets the start at once: until `momentum` is reached it is the
    polynomial-decay average of Shamir & Zhang 2013 (arXiv:1212.1824). Moving statistics
    of open layers are averaged like the weights that they belong to; what does not
    change stays bit for bit. Training itself is what it is without this callback.

    Of a LoRA adapter both factors are averaged, as variables that train. The product of
    the averages is not the average of the products, whose rank would be higher; they
    differ by the covariance of the factors over the updates averaged, which is small
    where these move little. Validation judges the product, as it is merged and saved.

    It stands before all other callbacks, so that these see the averages from the
    validation to the end of an epoch, and raw weights while it trains.
    `keras.callbacks.SwapEMAWeights` swaps by adding and subtracting, which rounds the
    weights that training goes on from; it has the raw weights in the model after a `fit`
    that was stopped early; and its average is still the start after a few updates.

    Args:
        momentum: above 0 and below 1; 0.99 averages over the last 100 updates or so.

    Attributes:
        variables: the count of updates and the averages, for who goes back or resumes.

    Raises:
        UserError: for a momentum out of its range, or from `fit`, where the optimiser
            averages too.
    """

    def __init__(self, momentum: float) -> None:
        super().__init__()
        fraction("ema", momentum)
        if not momentum:
            raise UserError("ema is 0; give a momentum such as 0.99, or leave the callback out.")
        self._momentum = momentum
        self.variables: list[keras.Variable] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        if getattr(optimizer, "use_ema", False):
            raise UserError(
                f"ema is {self._momentum:g}, but the optimizer averages too (use_ema=True); leave "
                "one of them out."
            )
        self._averaged = [*self.model.trainable_weights, *_floating(kept_beside(self.model))]
        self._count = keras.Variable(0, dtype="int64", trainable=False, name="updates")
        # Not in half precision, which would lose what a single update adds.
        self._averages = [
            keras.Variable(v.numpy(), trainable=False, dtype=_wide(v.dtype)) for v in self._averaged
        ]
        self.variables = [self._count, *self._averages]
        self._done = self._updates()
        self._take_in = tf.function(self._take, autograph=False)
        self._raw: list[np.ndarray] = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        for variable, value in zip(self._averaged, self._raw, strict=bool(self._raw)):
            variable.assign(value)
        self._raw = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        done = self._updates()
        if done > self._done:  # not while gradients accumulate, or where they overflow
            self._take_in(tf.constant(done - self._done, "int64"))
        self._done = done

    def on_test_begin(self, logs: dict | None = None) -> None:
        if self._raw:
            return
        self._raw = [v.numpy() for v in self._averaged]
        for variable, average in zip(self._averaged, self._averages, strict=True):
            variable.assign(average)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.on_test_begin()  # where there was no validation

    def state(self) -> tuple[Arrays, Facts]:
        """What a checkpoint holds of it."""
        named = {"mean": [v.numpy() for v in self.variables], "raw": self._raw}
        return {f"{kind}{i}": a for kind, them in named.items() for i, a in enumerate(them)}, {}

    def load(self, arrays: Arrays, facts: Facts) -> None:
        """Takes over what `state` gave, where a phase goes on."""
        for i, variable in enumerate(self.variables):
            variable.assign(arrays[f"mean{i}"])
        raw = range(len(arrays) - len(self.variables))
        self._raw = [arrays[f"raw{i}"] for i in raw]
        self._done = self._updates()

    def _updates(self) -> int:
        return int(np.asarray(self.model.optimizer.iterations))

    def _take(self, updates: tf.Tensor) -> None:
        """Takes the weights in, after one update or, where `fit` runs several, after those."""
        self._count.assign_add(updates)
        t = tf.cast(self._count.value, tf.float64)
        momentum = tf.minimum(tf.constant(self._momentum, tf.float64), (1 + t) / (10 + t))
        share = 1 - momentum ** tf.cast(updates, tf.float64)
        for variable, average in zip(self._averaged, self._averages, strict=True):
            # By the difference: it is 0, and the average exact, where nothing changes.
            step = (tf.cast(variable.value, average.dtype) - average.value) * tf.cast(
                share, average.dtype
            )
            average.assign_add(step)


def _floating(variables: Sequence[keras.Variable]) -> list[keras.Variable]:
    return [v for v in variables if "float" in v.dtype]


def _wide(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"
