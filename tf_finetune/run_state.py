"""What a run has done so far: in a form that is saved, and goes on from there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tf_finetune.checkpoints.files import Arrays, Facts
from tf_finetune.fit.audit import Audit
from tf_finetune.fit.held_out import Scores
from tf_finetune.fit.phase_result import PhaseResult
from tf_finetune.fit.resuming import Middle
from tf_finetune.fit.seeds import Seeds
from tf_finetune.model.naming import variable_names
from tf_finetune.optim.carry import State


@dataclasses.dataclass(slots=True, kw_only=True)
class RunState:
    """What training has done so far, but for the network's weights.

    Attributes:
        same: what must be the same where the run goes on, and is checked.
        made: what was decided when the run began and holds for all of it: `precision`,
            `micro_batch`, and which phases train on a cut.
        results: of the phases that have ended, but for a baseline's.
        probe: what the head alone gave.
        untuned: what the network gave before tuning, for `interpolated.untuned_scores`.
        optimizer: what is carried from phase to phase.
        before: the network's weights before tuning, by number, where they were not those
            that the run began with; None before it begins, or where they are not needed.
        rows: of `metrics.jsonl`.
        seconds: of training.
    """

    same: Facts
    made: Facts
    results: list[PhaseResult] = dataclasses.field(default_factory=list)
    probe: Scores = dataclasses.field(default_factory=dict)
    untuned: Scores = dataclasses.field(default_factory=dict)
    optimizer: State = dataclasses.field(default_factory=dict)
    before: dict[int, np.ndarray] | None = None
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


def packed(
    state: RunState,
    variables: Sequence[keras.Variable],
    moving: set[int],
    middle: Middle | None,
) -> tuple[Arrays, Facts]:
    """The arrays and facts of a checkpoint.

    Variables are told by their place: names that Keras makes up differ where a process has
    made other models before.

    Args:
        state: of the run.
        variables: of the network.
        moving: the places of the variables that may differ from the run's start.
        middle: of the phase that trains, if one does.
    """
    places = {name: i for i, name in enumerate(variable_names(variables))}
    sections: dict[str, dict[Any, np.ndarray]] = {
        "network": {i: variables[i].numpy() for i in sorted(moving)},
        "momentum": {places[name]: m for name, (_, m, _) in state.optimizer.items()},
        "velocity": {places[name]: v for name, (_, _, v) in state.optimizer.items()},
        "probe": state.probe,
        "untuned": state.untuned,
        "before": state.before or {},
        "phase": middle.arrays if middle else {},
    }
    arrays = {f"{kind}/{key}": a for kind, held in sections.items() for key, a in held.items()}
    facts: Facts = {
        "same": state.same,
        "made": state.made,
        "results": [dataclasses.asdict(result) for result in state.results],
        "ages": {places[name]: age for name, (age, _, _) in state.optimizer.items()},
        "has_before": state.before is not None,
        "rows": state.rows,
        "seconds": state.seconds,
        "middle": None,
    }
    if middle:
        names = ("phase", "epoch", "batch", "facts")
        facts["middle"] = {name: getattr(middle, name) for name in names}
    return arrays, facts


def unpacked(
    arrays: Arrays, facts: Facts, variables: Sequence[keras.Variable]
) -> tuple[RunState, dict[int, np.ndarray], Middle | None]:
    """What `packed` was given; the network's variables by their places, not yet put there."""

    def section(kind: str) -> Arrays:
        start = f"{kind}/"
        return {key[len(start) :]: a for key, a in arrays.items() if key.startswith(start)}

    names = variable_names(variables)
    momentums, velocities = section("momentum"), section("velocity")
    optimizer: State = {
        names[int(i)]: (age, momentums[i], velocities[i]) for i, age in facts["ages"].items()
    }
    state = RunState(
        same=facts["same"],
        made=facts["made"],
        results=[_result(held) for held in facts["results"]],
        probe=section("probe"),
        untuned=section("untuned"),
        optimizer=optimizer,
        before=_numbered(section("before")) if facts["has_before"] else None,
        rows=facts["rows"],
        seconds=facts["seconds"],
    )
    middle = Middle(arrays=section("phase"), **facts["middle"]) if facts["middle"] else None
    return state, _numbered(section("network")), middle


def _numbered(arrays: Arrays) -> dict[int, np.ndarray]:
    return {int(key): array for key, array in arrays.items()}


def _result(held: Facts) -> PhaseResult:
    audit = held["audit"] | {"unmoved": tuple(held["audit"]["unmoved"])}
    return PhaseResult(
        **held
        | {
            "audit": Audit(**audit),
            "skipped": [tuple(batches) for batches in held["skipped"]],
            "seeds": Seeds(**held["seeds"]) if held["seeds"] else None,
        }
    )
