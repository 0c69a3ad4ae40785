"""Which phases of a run train on a cut: a rule by which nothing has to be timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tf_finetune.config import Phase
from tf_finetune.fit.audit import may_change
from tf_finetune.model.blocks import Groups
from tf_finetune.model.freezing import frozen_dropout_off, set_trainable
from tf_finetune.model.laid_open import multiply_adds
from tf_finetune.model.slicing import Cut, NotCut, cut_of, steps_of

# What a processor multiplies while a byte is read, at 100 GFLOP/s and 1 GB/s; a GPU at 10
# TFLOP/s. A rule and no measurement, so that a run does the same each time.
_A_BYTE = {"CPU": 50, "GPU": 5_000}
# A frozen part that is less of the whole than this is not worth a second model.
_SHARE = 0.05


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Planned:
    """A phase that trains on a cut, or why it does not.

    Attributes:
        cut: None where it does not.
        why_not: then; empty where nothing in it is frozen.
        made_by: the place of the phase in whose pass over the rows the activations are made.
        alone: that is the phase itself.
        share: of the network's multiplications, those in its frozen part, also of a phase
            that trains the head alone on features.
    """

    cut: Cut | None = None
    why_not: str = ""
    made_by: int = 0
    alone: bool = True
    share: float = 0.0


def plan_cuts(
    groups: Groups,
    phases: Sequence[Phase],
    tokens: float,
    *,
    first: int = 0,
    features: bool = True,
    views: int = 1,
) -> list[Planned]:
    """Decides for each phase of a run; `trainable` is then that of the last.

    A pass over the rows makes what all later phases need of it too, as long as no phase in
    between changes weights in their prefix. So a phase of one epoch, which alone would not
    pay, costs nothing but the room for it. Phases that train the head alone have features
    of their own, for which the frozen part is run over all rows anyway; they get no cut.

    Args:
        groups: of the network.
        phases: in the order of their training.
        tokens: of a row, on average.
        first: of these, the place of the one with which training begins.
        features: phases that train the head alone have features of their own.
        views: versions of each row, which all are run through the frozen part.
    """
    try:
        steps = steps_of(groups.model)
    except NotCut as reason:
        return [Planned(why_not=str(reason)) for _ in phases]
    found, changed = list[Planned](), list[set[int]]()
    for phase in phases:
        set_trainable(groups, phase.train, phase.batch_norm)
        changed.append(may_change(groups.model))
        with frozen_dropout_off(groups):
            try:
                found.append(Planned(cut=cut_of(steps), made_by=len(found)))
            except NotCut:
                found.append(Planned())
    whole = multiply_adds(steps.all, steps, tokens)
    for i, (planned, phase) in enumerate(zip(found, phases, strict=True)):
        if planned.cut:
            planned.share = multiply_adds(planned.cut.prefix, steps, tokens) / max(whole, 1)
        if planned.cut is None or (features and phase.train == "head"):
            planned.cut = None
            continue
        prefix = {id(v) for v in planned.cut.weights()}
        hosts = [
            j
            for j in range(first, i)
            if (found[j].cut or (features and phases[j].train == "head"))
            and not any(prefix & ids for ids in changed[j:i])
        ]
        planned.made_by = min(hosts, default=i)
        planned.alone = planned.made_by == i
        # Its own pass over each version takes as long as an epoch's.
        times = phase.epochs - planned.alone * views
        why_not = _does_not_pay(planned, times, phase.epochs, tokens, whole)
        if why_not:
            planned.cut, planned.why_not = None, why_not
    return found


def _does_not_pay(planned: Planned, times: int, epochs: int, tokens: float, whole: float) -> str:
    """Why it does not; empty where it does."""
    assert planned.cut
    if planned.share < _SHARE:
        return f"only {planned.share:.0%} of the multiplications are in its frozen part"
    if times < 1:
        return "one epoch computes it once" if epochs == 1 else "there are as many views as epochs"
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    bytes_of_row = planned.cut.row_bytes(tokens)
    if planned.share * whole * times < _A_BYTE[device] * (epochs + 1) * bytes_of_row:
        return f"reading {bytes_of_row / 1e3:,.0f} kB a row would take as long"
    return ""
