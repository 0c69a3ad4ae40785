"""What is shown and written while a phase trains; none of it changes the training."""

from __future__ import annotations

import json
import time
from pathlib import Path

import keras
import numpy as np
from tqdm.auto import tqdm

from tf_finetune.checkpoints.files import Arrays, Facts
from tf_finetune.fit.examples import plain


class Progress(keras.callbacks.Callback):
    """One live bar an epoch, on a terminal only.

    Args:
        name: of the phase.
        examples: training examples an epoch.
        steps: batches an epoch.
    """

    def __init__(self, name: str, examples: int, steps: int) -> None:
        super().__init__()
        self._name, self._examples, self._steps = name, examples, steps

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        title = f"{self._name} {epoch + 1}/{self.params['epochs']}"
        self._bar = tqdm(total=self._examples, desc=title, unit="ex", disable=None, leave=False)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if not self._bar.disable:
            self._bar.set_postfix(_shown(logs), refresh=False)
            done = round(self._examples * (batch + 1) / self._steps)
            self._bar.update(min(done, self._examples) - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._bar.close()


def _shown(logs: dict | None) -> dict[str, str]:
    single = {key: value for key, value in (logs or {}).items() if np.ndim(value) == 0}
    return {key: f"{value:.4f}" for key, value in single.items()}


class MetricsLog(keras.callbacks.Callback):
    """Keeps the figures of each epoch in `rows`, and as JSON lines in a file.

    Args:
        name: of the phase.
        examples: training examples an epoch.
        file: the run's `metrics.jsonl`; None writes none.

    Attributes:
        rows: one dict an epoch.
        first_step_seconds: from the start of `fit` to the end of its first step,
            most of which TensorFlow spends on tracing.
    """

    def __init__(self, name: str, examples: int, file: Path | None = None) -> None:
        super().__init__()
        self._file, self._name, self._examples = file, name, examples
        self.rows: list[dict] = []
        self.first_step_seconds: float | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._began = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch_began = self._epoch_trained = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self.first_step_seconds is None:
            self.first_step_seconds = time.perf_counter() - self._began

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._epoch_trained = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self._epoch_trained == self._epoch_began:  # there was no validation
            self._epoch_trained = time.perf_counter()
        seconds = self._epoch_trained - self._epoch_began
        row = {
            "phase": self._name,
            "epoch": epoch + 1,
            "step": int(self.model.optimizer.iterations.numpy()),
            **{key: plain(value) for key, value in (logs or {}).items()},
            "learning_rate": float(np.asarray(self.model.optimizer.learning_rate)),
            "seconds": round(seconds, 3),
            "examples_per_second": round(self._examples / seconds, 1),
        }
        self.rows.append(row)
        if self._file:
            with self._file.open("a") as out:
                out.write(json.dumps(row) + "\n")

    def state(self) -> tuple[Arrays, Facts]:
        """What a checkpoint holds of it."""
        elapsed = time.perf_counter() - self._epoch_began
        return {}, {"rows": self.rows, "first": self.first_step_seconds, "elapsed": elapsed}

    def load(self, arrays: Arrays, facts: Facts) -> None:
        """Takes over what `state` gave, where a phase goes on."""
        self.rows, self.first_step_seconds = list(facts["rows"]), facts["first"]
        self._epoch_began = self._epoch_trained = time.perf_counter() - facts["elapsed"]
