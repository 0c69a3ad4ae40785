"""A run kept on the disk while it trains, so that the same command goes on with it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tf_finetune import workdir as folder
from tf_finetune.assemble import Setup
from tf_finetune.checkpoints.files import Arrays, Checkpoint, CheckpointFiles, Facts
from tf_finetune.checkpoints.saver import Saver
from tf_finetune.config import FineTuneConfig
from tf_finetune.config_checks import PRECISIONS
from tf_finetune.errors import UserError
from tf_finetune.finished import versions
from tf_finetune.fit.audit import may_change
from tf_finetune.fit.interpolation import interpolates
from tf_finetune.fit.resuming import Middle, Saving
from tf_finetune.fit.strategy import is_chief, told_by_chief
from tf_finetune.kept import CUTS
from tf_finetune.preflight import fitting_replicas
from tf_finetune.run_state import RunState, packed, unpacked
from tf_finetune.stopping import Stop
from tf_finetune.taking_part import Part

Say = Callable[[str], None]

_RESUMED = "resumed.txt"  # a line each time


class Ongoing:
    """A run that trains, and what of it is on the disk.

    Args:
        run: its folder, begun, or with `found` in it.
        config: of the run.
        setup: of the run, made anew from the same data and pretrained weights.
        made: what was decided when the run began: `precision`, `micro_batch`, `versions`.
        found: where it goes on; None where it begins.
        files: of the run.
        stop: whose wish to stop is followed.
        say: where lines for people go.

    Attributes:
        state: of the run.
        saving: of its phases.
        resumed: how often it has gone on.
        files: as given.

    Raises:
        UserError: if the data or the pretrained weights are not those of `found`.
    """

    def __init__(
        self,
        run: Path,
        config: FineTuneConfig,
        setup: Setup,
        made: Facts,
        found: Checkpoint | None,
        files: CheckpointFiles,
        *,
        stop: Stop,
        say: Say,
    ) -> None:
        self._run, self._setup, self._stop, self.files = run, setup, stop, files
        self._network: keras.Model = setup.task.network
        # Noted now: a train step may put a generator of its own among them for a while.
        self._variables = list(self._network.variables)
        self._ready = time.perf_counter()
        self._moving: set[int] = set()  # places in the network's variables
        # What interpolation may begin from.
        self._start = self._network.get_weights() if interpolates(config.fit, setup.phases) else []
        same = {"data": setup.prepared.digest, "weights": digest(self._network)}
        self.state, self.resumed = RunState(same=same, made=made), 0
        middle = self._go_on(found, same, made, say) if found else None
        self._before = self.state.seconds
        saver = Saver(files if is_chief() else None, every=config.fit.save_every, say=say)
        self.saving = Saving(saver=saver, pack=self._packed, stop=stop, middle=middle)

    def _go_on(self, found: Checkpoint, same: Facts, made: Facts, say: Say) -> Middle | None:
        self.state, weights, middle = unpacked(found.arrays, found.facts, self._variables)
        _check_same(self._run, self.state.same, same)
        if line := _other_versions(self.state.made["versions"], made["versions"]):
            say(line)
        self._moving = set(weights)
        if middle:
            middle.weights = weights
        else:
            for place, array in weights.items():
                self._variables[place].assign(array)
        rows = self.state.rows + (middle.facts["MetricsLog"]["rows"] if middle else [])
        folder.write_atomically(
            self._run / folder.HISTORY, "".join(f"{json.dumps(row)}\n" for row in rows)
        )
        self._stop.place = self._place(middle)
        (self._run / folder.CHECKPOINTS).mkdir(exist_ok=True)  # a worker's own is empty
        with (self._run / folder.CHECKPOINTS / _RESUMED).open("a+") as lines:
            lines.write(f"{self._stop.place}\n")
            lines.seek(0)
            self.resumed = len(lines.readlines())
        say(f"goes on from {self._stop.place}")
        return middle

    def save(self) -> None:
        """Saves the run between two phases."""
        self.state.rows = folder.read_history(self._run)
        self.saving.middle = None
        self._note_moving()  # also where another process writes
        self.saving.saver.save(lambda: self._packed(None))

    def mark_before(self) -> None:
        """Notes the network's weights from which `before` goes on."""
        places = {id(v): i for i, v in enumerate(self._network.weights)}
        moved = [self._variables[place] for place in self._moving]
        self.state.before = {places[id(v)]: v.numpy() for v in moved if id(v) in places}

    def before(self) -> list[np.ndarray]:
        """The network's weights when `mark_before` was called, by this process or another."""
        before = self.state.before or {}
        return [before.get(place, array) for place, array in enumerate(self._start)]

    def close(self) -> None:
        """Waits until all is on the disk."""
        self.saving.saver.close()

    def _note_moving(self) -> None:
        weights, changing = {id(v) for v in self._network.weights}, may_change(self._network)
        self._moving |= {
            place
            for place, v in enumerate(self._variables)
            if id(v) in changing or id(v) not in weights  # the states of random numbers
        }

    def _packed(self, middle: Middle | None) -> tuple[Arrays, Facts]:
        self._note_moving()
        self.state.seconds = self._before + time.perf_counter() - self._ready
        self._stop.place = self._place(middle)
        return packed(self.state, self._variables, self._moving, middle)

    def _place(self, middle: Middle | None) -> str:
        phases = [self._setup.baseline, *self._setup.phases]
        if not middle:
            done = phases[len(self.state.results)]
            return f"the end of phase {done.name}" if done else "the beginning"
        phase = phases[middle.phase]
        assert phase
        return f"phase {phase.name}, epoch {middle.epoch + 1}, update {middle.batch}"


def begun(
    part: Part, config: FineTuneConfig, setup: Setup, room: int
) -> tuple[FineTuneConfig, Ongoing]:
    """Begins a run in its folder, or goes on with what was found there.

    Args:
        part: of this process in the run.
        config: of the run.
        setup: of the run; gets the precision with which it began.
        room: bytes that the run writes beside checkpoints.

    Returns:
        The configuration with the `micro_batch` with which it began, and the run.

    Raises:
        UserError: if the run cannot begin or go on here.
    """
    run, say = part.folder, part.say
    files = CheckpointFiles(run / folder.CHECKPOINTS)
    files.reserve, found = room, _found(part, files)
    made: Facts = {"versions": versions()}
    if found:
        then = found.facts["made"]
        made |= {"precision": then["precision"], "micro_batch": then["micro_batch"]}
        setup.precision = then["precision"]
    else:
        # "auto" goes by the processor, and hosts may have different ones.
        setup.precision = PRECISIONS[told_by_chief(PRECISIONS.index(setup.precision))]
        chosen = told_by_chief(fitting_replicas(config, setup, say=say).fit.micro_batch)
        made |= {"precision": setup.precision, "micro_batch": chosen, CUTS: None}
        folder.check_room(run, room)
        prepared = setup.prepared
        folder.begin(run, config, prepared.report, prepared.findings.to_csv())
    fit = dataclasses.replace(config.fit, micro_batch=made["micro_batch"])
    ongoing = Ongoing(run, config, setup, made, found, files, stop=part.stop, say=say)
    return dataclasses.replace(config, fit=fit), ongoing


def _found(part: Part, files: CheckpointFiles) -> Checkpoint | None:
    """The newest checkpoint, which all workers read where the chief has found it."""
    found = files.newest(part.say) if part.chief else None
    number = told_by_chief(found.number if found else 0)
    if part.chief or not number:
        return found
    there = part.shared / folder.CHECKPOINTS
    try:
        return CheckpointFiles(there).read(number)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f'the chief goes on from "{there}/{number:06d}", which this worker cannot read '
            f"({error}). Put --workdir on a file system that all hosts share."
        ) from None


def digest(network: keras.Model) -> str:
    """SHA-256 of a network's weights."""
    total = hashlib.sha256()
    for variable in network.weights:
        total.update(np.ascontiguousarray(variable.numpy()).data)
    return total.hexdigest()


def _check_same(run: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    mend = "or choose another workdir to begin anew"
    if then["data"] != now["data"]:
        raise UserError(
            f'The data have changed since the run in "{run}" began, so that it cannot go on. Bring '
            f"them back as they were, {mend}."
        )
    if then["weights"] != now["weights"]:
        raise UserError(
            f'config.model.preset gives other weights than when the run in "{run}" began, so that '
            f"it cannot go on. Bring back what it named then, {mend}."
        )


def _other_versions(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    changed = [f"{n} {then.get(n)} -> {now.get(n)}" for n in now if then.get(n) != now[n]]
    if not changed:
        return ""
    return (
        f"versions have changed since the run began ({', '.join(changed)}); it goes on, but may "
        "end a little different from one that was never stopped"
    )
