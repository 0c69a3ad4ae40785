"""The best and the last weights of a phase."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from tf_finetune.whole import written_whole

_FLOAT = 4


def bytes_of(model: keras.Model) -> int:
    """About how large a file of the model's weights is, and rather more."""
    return int(1.1 * _FLOAT * sum(math.prod(v.shape) for v in model.weights)) + 2**20


class KeepBest(keras.callbacks.Callback):
    """Writes `last` and `best.weights.h5` at each epoch's end; may end the phase.

    The state before the first epoch is a candidate too, so that a phase never ends
    worse on validation than it began. An epoch whose validation loss is no finite
    number ends the phase and is never the best. Each file is written under a
    temporary name and then renamed.

    Args:
        folder: where the two files go.
        monitor: the validation metric that decides; the validation loss decides
            between equals.
        mode: `max` or `min`.
        patience: epochs without a better one before training stops; 0 means never.
        start: validation figures before the first epoch, named as in its logs.

    Attributes:
        best_epoch: counted from 1; 0 while none was better than the start.
        finite_epochs: those that ended with finite numbers.
    """

    def __init__(
        self, folder: Path, monitor: str, mode: str, patience: int, start: Mapping[str, float]
    ) -> None:
        super().__init__()
        self._folder, self._monitor, self._patience = folder, monitor, patience
        self._sign = 1.0 if mode == "max" else -1.0
        score = self._score(start)
        self._best = score if np.isfinite(score).all() else (-float("inf"), -float("inf"))
        self.best_epoch = self.finite_epochs = 0

    def _score(self, logs: Mapping[str, float]) -> tuple[float, float]:
        return self._sign * logs[self._monitor], -logs["val_loss"]

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # A view of its own, without the optimiser: weights alone are a third as large.
        self._weights = keras.Model(self.model.inputs, self.model.outputs)
        self._write("best.weights.h5")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._write("last.weights.h5")
        score = self._score(logs or {})
        if not np.isfinite(score).all():
            self.model.stop_training = True  # no later epoch can mend it
            return
        self.finite_epochs += 1
        if score > self._best:
            self._best, self.best_epoch = score, epoch + 1
            with written_whole(self._folder / "best.weights.h5") as temporary:
                os.link(self._folder / "last.weights.h5", temporary)
        # The start is no epoch: training may first lose a little, as the rate warms up.
        elif self._patience and epoch + 1 - max(self.best_epoch, 1) >= self._patience:
            self.model.stop_training = True

    def _write(self, name: str) -> None:
        with written_whole(self._folder / name, needed=bytes_of(self._weights)) as temporary:
            self._weights.save_weights(temporary)

    def restore(self) -> None:
        """Puts the best epoch's weights, or those of the start, back into the model."""
        self._weights.load_weights(self._folder / "best.weights.h5")
