"""The best weights of a phase."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np

from tf_finetune.checkpoints.files import Arrays, Facts
from tf_finetune.fit.audit import may_change
from tf_finetune.whole import written_whole

_FLOAT = 4


def bytes_of(model: keras.Model) -> int:
    """About how large a file of the model's weights is, and rather more."""
    return int(1.1 * _FLOAT * sum(math.prod(v.shape) for v in model.weights)) + 2**20


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the best epoch; may end the phase.

    The state before the first epoch is a candidate too, so that a phase never ends
    worse on validation than it began. An epoch whose loss is no finite number ends the
    phase and is never the best. Without validation the last epoch is the best.

    Args:
        monitor: the validation figure that decides; the validation loss decides
            between equals.
        mode: `max` or `min`.
        patience: epochs without a better one before training stops; 0 means never.
        start: validation figures before the first epoch, named as in its logs.
        folder: for `best.weights.h5`, written under a temporary name and then renamed;
            None writes nothing. In this file adapters are merged.
        whole: the model whose weights stand in it, where that is not the one that trains.

    Attributes:
        best_epoch: counted from 1; 0 while none was better than the start.
        finite_epochs: those that ended with finite numbers.
    """

    def __init__(
        self,
        monitor: str,
        mode: str,
        patience: int,
        start: Mapping[str, float],
        folder: Path | None = None,
        whole: keras.Model | None = None,
    ) -> None:
        super().__init__()
        self._folder, self._monitor, self._patience = folder, monitor, patience
        self._whole = whole
        self._sign = 1.0 if mode == "max" else -1.0
        self.best_epoch = self.finite_epochs = self._epochs = 0
        self._best = (-math.inf, -math.inf)
        if start and np.isfinite(self._score(start)).all():
            self._best = self._score(start)
        self._weights: list[np.ndarray] | None = None

    def _score(self, logs: Mapping[str, float]) -> tuple[float, float]:
        if self._monitor not in logs:  # a step of one's own may not tell its loss
            return float(self._epochs), -logs.get("loss", 0.0)
        return self._sign * logs[self._monitor], -logs.get("val_loss", 0.0)

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            # A view of its own, without the optimiser: weights alone are a third as large.
            whole = self._whole or self.model
            self._view = keras.Model(whole.inputs, whole.outputs)
        self._keep()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._epochs += 1
        score = self._score(logs or {})
        if not np.isfinite(score).all():
            self.model.stop_training = True  # no later epoch can mend it
            return
        self.finite_epochs += 1
        if score > self._best:
            self._best, self.best_epoch = score, self._epochs
            self._keep()
        # The start is no epoch: training may first lose a little, as the rate warms up.
        elif self._patience and self._epochs - max(self.best_epoch, 1) >= self._patience:
            self.model.stop_training = True

    def _keep(self) -> None:
        if self._folder:
            file = self._folder / "best.weights.h5"
            with written_whole(file, needed=bytes_of(self._view)) as temporary:
                self._view.save_weights(temporary)
        self._weights = self.model.get_weights()

    def state(self) -> tuple[Arrays, Facts]:
        """What a checkpoint holds of it."""
        changing, weights = may_change(self.model), self._weights or []
        numbered = enumerate(zip(self.model.weights, weights, strict=True))
        facts = [list(self._best), self.best_epoch, self.finite_epochs, self._epochs]
        return {str(i): w for i, (v, w) in numbered if id(v) in changing}, {"facts": facts}

    def load(self, arrays: Arrays, facts: Facts) -> None:
        """Takes over what `state` gave, where a phase goes on."""
        now = self.model.get_weights()
        self.model.set_weights([arrays.get(str(i), w) for i, w in enumerate(now)])
        self._keep()
        self.model.set_weights(now)
        best, self.best_epoch, self.finite_epochs, self._epochs = facts["facts"]
        self._best = (best[0], best[1])

    def restore(self) -> None:
        """Puts the best epoch's weights, or those of the start, back into the model."""
        if self._weights is not None:  # the training has begun
            self.model.set_weights(self._weights)
