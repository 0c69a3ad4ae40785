"""Several updates in one call of `fit`."""

from __future__ import annotations

from typing import Any

import keras


class LastExecution(keras.callbacks.Callback):
    """Ends each epoch of `fit(steps_per_epoch=...)` after its own batches.

    Keras gives every call `steps_per_execution` batches, also the last one of an epoch,
    where that number does not divide the batches; of endless data it takes them from the
    next epoch. Here the last call makes as many updates as are left.

    Args:
        steps: batches an epoch.
        size: `steps_per_execution`.
    """

    def __init__(self, steps: int, size: int) -> None:
        super().__init__()
        self._steps, self._size = steps, size
        self._functions: dict[bool, Any] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._functions = {False: self.model.train_function}
        self.model.make_train_function(force=True)
        self._functions[True] = self.model.train_function

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        is_last = batch + self._size > self._steps
        # It is read when the function is traced, at its first call.
        self.model.steps_per_execution = self._steps - batch if is_last else self._size
        self.model.train_function = self._functions[is_last]

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.model.steps_per_execution = self._size  # for the validation
