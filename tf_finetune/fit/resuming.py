"""A phase that is saved while it trains, and goes on where it was saved, bit for bit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tf_finetune.checkpoints.files import Arrays, Facts
from tf_finetune.checkpoints.saver import Saver
from tf_finetune.fit.audit import Snapshot
from tf_finetune.fit.examples import Examples, validation_figures
from tf_finetune.fit.totals import put, value_here
from tf_finetune.fit.watching import Watching
from tf_finetune.model.slicing import Suffix
from tf_finetune.stopping import Stop


@dataclasses.dataclass(slots=True, kw_only=True)
class Middle:
    """Where in a phase it was saved, and its state then, but for the network's.

    Attributes:
        phase: its number in the run.
        epoch: counted from 0.
        batch: batches of the epoch that are done; never all of them.
        arrays: optimiser, metrics and callbacks.
        facts: likewise; of the phase's start its figures, and the digests for the audit; and
            whether it trains on a `cut`.
        weights: of the network, by their places, where the phase goes on.
    """

    phase: int
    epoch: int
    batch: int
    arrays: Arrays
    facts: Facts
    weights: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def restore(self, network: keras.Model) -> None:
        """Gives a network its weights, and the state of its random numbers."""
        for place, array in self.weights.items():
            network.variables[place].assign(array)


@dataclasses.dataclass(slots=True, kw_only=True)
class Saving:
    """How the phases of a run are saved, and where one of them goes on.

    Attributes:
        saver: says when, and writes.
        pack: what is written: the run with the middle of a phase in it.
        stop: whose wish is followed at the end of a batch.
        middle: where a phase goes on; who runs it has put the network's weights there.
    """

    saver: Saver
    pack: Callable[[Middle], tuple[Arrays, Facts]]
    stop: Stop
    middle: Middle | None = None

    def middle_of(self, number: int) -> Middle | None:
        """Where the phase of this number goes on; None where it begins."""
        return self.middle if self.middle and self.middle.phase == number else None


class SaveState(keras.callbacks.Callback):
    """Saves a phase, and takes over what was saved; the last callback of its `fit`.

    Args:
        saving: of the run.
        number: of the phase.
        watching: the callbacks that are saved too.
        snapshot: of the phase's start.
        start: the validation figures of then.
        examples: which begin where the phase goes on.
        network: the whole of which the model may be the end; it is saved by `saving.pack`.
        began: when the phase did, by `time.perf_counter`.
    """

    def __init__(
        self,
        saving: Saving,
        number: int,
        watching: Watching,
        snapshot: Snapshot,
        start: Mapping[str, float],
        examples: Examples,
        network: keras.Model,
        began: float,
    ) -> None:
        super().__init__()
        self._saving, self._number, self._examples = saving, number, examples
        self._parts, self._guard = watching.stateful(), watching.guard
        self._start = {"start": dict(start), "audit": snapshot.digests}
        self._began = began
        # Before a train step has put a generator of its own among them.
        self._whole = {id(v) for v in network.variables}
        self._middle, self._epoch = saving.middle_of(number), 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        middle = self._middle
        done = middle.epoch * self._examples.steps + middle.batch if middle else 0
        self._saving.saver.begin(done)
        if middle and not middle.batch:
            self._load(middle)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        if self._middle:  # there are batches to pass by
            self._function, self.model.train_function = self.model.train_function, _pass_by

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self._middle:
            if self.model.train_function is _pass_by:
                self.model.train_function = self._function
            self._load(self._middle)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        done, steps = batch + 1, self._examples.steps
        wanted = self._saving.stop.wanted()
        if done >= steps:
            return  # the epoch's end is saved
        updates = self._epoch * steps + done
        if wanted or (self._is_cheap() and self._saving.saver.due(updates)):
            self._save(self._epoch, done, updates)

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._saving.stop.wanted():
            self._saving.stop.check()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.model.stop_training or epoch + 1 == self.params["epochs"]:
            return  # the phase's end is saved
        updates = (epoch + 1) * self._examples.steps
        if self._saving.stop.asked or self._saving.saver.due(updates):
            self._save(epoch + 1, 0, updates)

    def _is_cheap(self) -> bool:
        """Unless asked for, the guard's last good state, a second model, is left out."""
        return bool(self._saving.saver.every) or not (self._guard and self._guard.is_ahead)

    def _save(self, epoch: int, batch: int, updates: int) -> None:
        self._saving.saver.save(lambda: self._saving.pack(self._state(epoch, batch)), updates)
        if self._saving.stop.asked:
            self._saving.saver.wait()
            self._saving.stop.check()

    def _variables(self) -> dict[str, Sequence[Any]]:
        return {
            "optimizer": self.model.optimizer.variables,
            "metrics": self.model.metrics_variables,
            # Such as what mixup draws from.
            "model": [v for v in self.model.variables if id(v) not in self._whole],
        }

    def _state(self, epoch: int, batch: int) -> Middle:
        arrays = {
            f"{kind}/{i}": value_here(v).numpy()
            for kind, them in self._variables().items()
            for i, v in enumerate(them)
        }
        facts: Facts = self._start | {
            "seconds": time.perf_counter() - self._began,
            "cut": isinstance(self.model, Suffix),
        }
        for name, part in self._parts.items():
            held, facts[name] = part.state()
            arrays |= {f"{name}/{key}": array for key, array in held.items()}
        return Middle(phase=self._number, epoch=epoch, batch=batch, arrays=arrays, facts=facts)

    def _load(self, middle: Middle) -> None:
        self._middle = None
        for kind, variables in self._variables().items():
            held = _below(kind, middle.arrays)
            for i, variable in enumerate(variables):
                put(variable, held.pop(str(i)))
            if held:
                raise RuntimeError(f"the checkpoint holds more {kind} variables than there are")
        for name, part in self._parts.items():
            part.load(_below(name, middle.arrays), middle.facts[name])


def start_of_phase(
    model: keras.Model,
    examples: Examples,
    middle: Middle | None,
    whole: keras.Model | None = None,
) -> tuple[dict[str, float], Snapshot]:
    """Validation figures of a phase's start, and what the audit compares with.

    Args:
        model: compiled.
        examples: of the phase.
        middle: where it goes on. The metrics of the model are then made here, as
            evaluating it would have done.
        whole: what the audit looks at, where that is not `model`.
    """
    if not middle:
        return validation_figures(model, examples), Snapshot(whole or model)
    model._symbolic_build(data_batch=next(iter(examples.train["x"])))
    return middle.facts["start"], Snapshot(whole or model, middle.facts["audit"])


def going_on(
    model: keras.Model,
    callbacks: Sequence[keras.callbacks.Callback],
    middle: Middle | None,
    steps: int,
    first_epoch: int,
    epochs: int,
) -> dict[str, Any]:
    """The arguments of `fit` that say where it begins and ends.

    Args:
        model: to fit.
        callbacks: of `fit`.
        middle: where the phase goes on, if it does.
        steps: batches an epoch.
        first_epoch: what the phase's first epoch is counted as.
        epochs: of the phase.
    """
    last = first_epoch + epochs
    given: dict[str, Any] = {"callbacks": [*callbacks], "initial_epoch": first_epoch}
    if middle:
        given["initial_epoch"] = middle.epoch
        if middle.batch:
            given["callbacks"] = _From(middle.batch, callbacks, model, epochs=last, steps=steps)
    return given | {"epochs": last}


class _From(keras.callbacks.CallbackList):
    """Callbacks to which the batches before the one that a phase goes on with do not exist."""

    def __init__(
        self, first: int, callbacks: Sequence[Any], model: keras.Model, **params: int
    ) -> None:
        super().__init__([*callbacks], add_history=True, model=model, verbose=0, **params)
        self._first = first

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch >= self._first:
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch >= self._first:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._first = 0
        super().on_epoch_end(epoch, logs)


def _pass_by(iterator: Iterator[Any]) -> dict[str, Any]:
    """A train function for batches that are done; the examples do not hold them."""
    return {}


def _below(name: str, arrays: Arrays) -> Arrays:
    return {
        key.removeprefix(f"{name}/"): array
        for key, array in arrays.items()
        if key.startswith(f"{name}/")
    }
