"""Arrays of a user's own, run through the frozen part of a model once and kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.config import Phase
from tf_finetune.fit.cut_check import check_cut, some_of
from tf_finetune.fit.cut_costs import costs_in_memory
from tf_finetune.fit.examples import Examples
from tf_finetune.fit.memory import free_bytes
from tf_finetune.fit.planned_cuts import plan_cuts
from tf_finetune.fit.replicas import on_all_replicas
from tf_finetune.fit.step_checks import own_of
from tf_finetune.fit.strategy import so_on_all_hosts
from tf_finetune.model.blocks import Groups
from tf_finetune.model.slicing import Cut, NotCut, Suffix, run_prefixes

# Of the memory that is free, what may be kept there.
_MOST = 0.5

# With one of these of its own a model trains as no part of it would.
_WAYS = (
    "fit",
    "evaluate",
    "compile",
    "train_step",
    "test_step",
    "compute_loss",
    "compute_metrics",
    "metrics",
)

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(slots=True, kw_only=True)
class Kept:
    """What a phase trains on.

    Attributes:
        model: the end of the whole model, of the same layers and variables.
        examples: as those given, with what goes into `model` as their inputs.
        share: of the model's multiplications, those that each step is spared.
    """

    model: Suffix
    examples: Examples
    share: float


def kept_arrays(
    groups: Groups, phase: Phase, examples: Examples, say: Callable[[str], None]
) -> Kept | None:
    """Runs the frozen part of a model over arrays once, where that takes less time.

    Args:
        groups: of the model, whose `trainable`, dropout and types are set as it will train.
        phase: of the run.
        examples: of the run.
        say: where lines for people go.

    Returns:
        None where the phase is to train on the whole model.
    """
    given, validation = examples.train, examples.validation
    arrays = [given["x"], *(validation[:1] if isinstance(validation, tuple) else ())]
    flat = keras.tree.flatten(arrays)
    if not all(isinstance(x, np.ndarray) for x in flat):
        return None
    if validation is not None and not isinstance(validation, tuple):
        return None
    # What an axis of no fixed length counts as: the length that these arrays have.
    tokens = float(max((x.shape[1] for x in flat if x.ndim > 1), default=1))
    rows = sum(len(keras.tree.flatten(x)[0]) for x in arrays)
    own = own_of(groups.model, _WAYS)
    (planned,) = plan_cuts(
        groups,
        [phase],
        tokens,
        features=False,
        rows=rows,
        # Nothing has to be measured of what is not cut anyway.
        measure=None if own else lambda cut: costs_in_memory(cut, given["x"], given["batch_size"]),
    )
    try:
        if planned.cut is None:
            raise NotCut(planned.why_not)
        if own:
            raise NotCut(f"{type(groups.model).__name__} has a {own[0]} of its own")
        needed, free = rows * planned.cut.row_bytes(tokens), free_bytes()
        if not so_on_all_hosts(free is None or needed <= _MOST * free):
            has = f"{(free or 0) / 1e9:,.1f} GB are free here"
            raise NotCut(f"what is to be kept takes {needed / 1e9:,.1f} GB; {has}")
        say(f"phase {phase.name}: running the frozen part once over {rows:,} rows")
        batch = given["batch_size"]
        kept = _through(planned.cut, arrays, batch)
        suffix = Suffix(planned.cut, {n: str(kept[0][n].dtype) for n in planned.cut.kept})
        chosen = some_of(len(flat[0]))
        some = {name: array[chosen] for name, array in kept[0].items()}
        x = keras.tree.map_structure(lambda a: a[chosen], given["x"])
        check_cut(planned.cut, suffix, groups, x, some, np.full(len(chosen), int(tokens)))
    except NotCut as reason:
        if str(reason):
            say(f"phase {phase.name}: the model is not cut, because {reason}")
        return None
    total = sum(a.nbytes for arrays in kept for a in arrays.values())
    say(f"phase {phase.name}: trains on kept activations, {total / 1e6:,.1f} MB in memory")
    new = dataclasses.replace(examples, train=given | {"x": kept[0]})
    if validation is not None:
        new.validation = (kept[1], *validation[1:])
    return Kept(model=suffix, examples=new, share=planned.share)


def _through(cut: Cut, arrays: Sequence[Any], batch: int) -> list[Arrays]:
    """What a cut keeps and passes on of all rows of several inputs, by name."""
    # Traced once for all of them.
    run = on_all_replicas(lambda x: run_prefixes([cut], x)[0])
    step = tf.function(run, autograph=False, reduce_retracing=True)
    found = []
    for x in arrays:
        count, parts = len(keras.tree.flatten(x)[0]), list[Arrays]()
        for i in range(0, count, batch):
            some = keras.tree.map_structure(lambda a, i=i: tf.constant(a[i : i + batch]), x)
            parts.append({name: kept.numpy() for name, kept in step(some).items()})
        kept = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        inputs = cut.steps.given(x) if cut.passed else {}
        found.append(kept | {name: np.asarray(inputs[key]) for name, key in cut.passed.items()})
    return found
