"""Going back to the last good state when the loss blows up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.checkpoints.files import Arrays, Facts
from tf_finetune.errors import UserError
from tf_finetune.fit.averaging import AveragedWeights
from tf_finetune.fit.replicas import loss_so_far
from tf_finetune.fit.totals import put, value_here

# Batches whose median loss is what later ones are compared with.
_FIRST = 20
# Steps between two copies of the state: the most that is lost.
_EVERY = 50
# A single high loss may be an unlucky batch.
_IN_A_ROW = 2


class Diverged(UserError):
    """Training whose loss is no number any more, or far too high again and again."""


@keras.saving.register_keras_serializable("tf_finetune")
class Lowered(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule times a factor that can be lowered while training runs.

    Args:
        schedule: what is multiplied.
        factor: to begin with.
    """

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, factor: float = 1.0
    ) -> None:
        self.schedule, self.factor = schedule, tf.Variable(factor, trainable=False)

    def __call__(self, step: Any) -> Any:
        return self.schedule(step) * self.factor

    def get_config(self) -> dict:
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "factor": float(self.factor.numpy())}

    @classmethod
    def from_config(cls, config: dict) -> Lowered:
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["factor"])


class SpikeGuard(keras.callbacks.Callback):
    """Undoes what a batch did whose loss is no finite number, or far too high.

    Weights, optimiser and metrics go back to the last good state, at most 50 steps
    before; the batches since then are skipped and named, and the rate is halved for the
    rest of the training. The schedule goes on where it was. A loss is too high when two
    batches in a row have more than `spike` times the median of the first 20, more than any of
    these, and more than `least`. Restoring the last good state and skipping batches is how
    large models get over spikes (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1). While
    nothing spikes, the training is bit for bit what it is without the guard.

    Args:
        most: how many times it goes back; once more ends the training with an error.
        spike: a loss this many times as high as at first is too high.
        least: a loss up to this is not; such as that of rows that are not trained on, without
            which the small losses of a model that fits its rows already look like spikes.
        beside: callbacks whose `variables` go back too; they must stand before this one.
        say: where lines for people go.

    Attributes:
        skipped: for each time the (epoch, first batch, last batch) that were skipped,
            counted from 1.
        is_ahead: whether the present state is another than the last good one.

    Raises:
        Diverged: from `fit`, when training still diverges after `most` times.
    """

    def __init__(
        self,
        most: int = 3,
        spike: float = 3.0,
        *,
        least: float = -math.inf,
        beside: Sequence[AveragedWeights] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__()
        if most < 1:
            raise UserError(f"most is {most}; a guard must be allowed to go back at least once.")
        if not spike > 1:
            raise UserError(f"spike is {spike}; it must be above 1.")
        self._most, self._spike, self._beside, self._say = most, spike, beside, say
        self._least = least if math.isfinite(least) else -math.inf
        self.skipped: list[tuple[int, int, int]] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._first: list[float] = []
        self._epoch = self._high = self._copied = 0
        self.is_ahead = False
        self._seen = self._copied_seen = (0.0, 0.0)
        self._good: dict[int, Any] = {}
        self._optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        # By the attribute: the property gives the rate of the moment.
        schedule = self._optimizer._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            self._optimizer.learning_rate = Lowered(schedule)
            self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch, self._high = epoch, 0
        self._seen = (0.0, 0.0)
        self._copy(0)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.is_ahead = False  # the next epoch begins with a copy

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.is_ahead = True
        loss = self._loss()
        self._high = self._high + 1 if self._is_high(loss) else 0
        if math.isfinite(loss) and self._high < _IN_A_ROW:
            if len(self._first) < _FIRST:
                self._first.append(loss)
            if not self._high and batch + 1 - self._copied >= _EVERY:
                self._copy(batch + 1)
            return
        if len(self.skipped) == self._most:
            raise Diverged(
                f"training has diverged: the loss is {loss:g} at batch {batch + 1} of epoch "
                f"{self._epoch + 1}, though the rate was halved {self._most} times before. Lower "
                "the learning_rate, clip gradients, or compute in float32."
            )
        self._go_back(batch, loss)

    def _is_high(self, loss: float) -> bool:
        if len(self._first) < _FIRST:
            return False
        middle, low, top = statistics.median(self._first), min(self._first), max(self._first)
        if low > 0:
            return loss > max(self._spike * middle, top, self._least)
        # One that comes to 0 or below has no size of its own but how far it goes.
        size = max(abs(middle), top - low)
        return size > 0 and loss > max(middle + (self._spike - 1) * size, self._least)

    def _loss(self) -> float:
        """Of the last batch: what it added to the epoch's mean."""
        total, count = loss_so_far(self.model)
        before, seen = self._seen
        self._seen = (total, count)
        return (total - before) / max(count - seen, 1e-12)

    def _copy(self, done: int) -> None:
        self._copied, self._copied_seen = done, self._seen
        # TensorFlow copies what it is about to change while somebody holds a reading of it:
        # in the kernel of the update, and never what is frozen.
        self._good = {id(v): value_here(v) for v in self._state()}
        self.is_ahead = False

    def _go_back(self, batch: int, loss: float) -> None:
        for variable in self._state():
            put(variable, self._good_of(variable))
        self._seen, self._high = self._copied_seen, 0
        self._halve()
        skipped = (self._epoch + 1, self._copied + 1, batch + 1)
        self._copied, self.is_ahead = batch + 1, False
        self.skipped.append(skipped)
        self._say(
            f"epoch {skipped[0]}: the loss is {loss:g} at batch {batch + 1}; went back to where "
            f"batch {skipped[1]} began, skipped the batches up to here, and halved the rate"
        )

    def state(self) -> tuple[Arrays, Facts]:
        """What a checkpoint holds of it: of the last good state what differs from now."""
        rate = self._optimizer._learning_rate
        facts = {
            "first": self._first,
            "high": self._high,
            "seen": [self._seen, self._copied_seen],
            "copied": self._copied,
            "skipped": self.skipped,
            "factor": float(rate.factor.numpy()) if isinstance(rate, Lowered) else None,
        }
        arrays = {}
        for i, variable in enumerate(self._state() if self.is_ahead else ()):
            good, now = np.asarray(self._good_of(variable)), value_here(variable).numpy()
            if good.tobytes() != now.tobytes():
                arrays[str(i)] = good
        return arrays, facts

    def load(self, arrays: Arrays, facts: Facts) -> None:
        """Takes over what `state` gave, where a phase goes on."""
        self._first, self._high, self._copied = facts["first"], facts["high"], facts["copied"]
        self._seen, self._copied_seen = (tuple(pair) for pair in facts["seen"])
        self.skipped = [(a, b, c) for a, b, c in facts["skipped"]]
        if facts["factor"] is not None:
            self._optimizer._learning_rate.factor.assign(facts["factor"])
        self._good = {
            id(v): arrays[str(i)] if str(i) in arrays else value_here(v)
            for i, v in enumerate(self._state())
        }

    def _state(self) -> list[keras.Variable]:
        # The count of steps goes on: the schedule belongs to the data, not to the weights.
        kept = (self._optimizer._iterations, self._optimizer._learning_rate)
        optimizer = [v for v in self.model.optimizer.variables if all(v is not k for k in kept)]
        beside = [v for callback in self._beside for v in callback.variables]
        return [*self.model.variables, *optimizer, *self.model.metrics_variables, *beside]

    def _good_of(self, variable: keras.Variable) -> Any:
        # Keras makes some metrics at the first batch only, with a state of zeros.
        return self._good.get(id(variable), np.zeros(variable.shape, variable.dtype))

    def _halve(self) -> None:
        rate = self._optimizer._learning_rate
        if isinstance(rate, Lowered):
            rate.factor.assign(rate.factor / 2)
        else:
            self._optimizer.learning_rate = float(np.asarray(rate)) / 2
