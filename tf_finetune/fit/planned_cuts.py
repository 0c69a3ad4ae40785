"""Which phases of a run train on a cut: a rule, which what was measured may overrule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_finetune.config import Phase
from tf_finetune.fit.audit import may_change
from tf_finetune.fit.cut_costs import Costs
from tf_finetune.model.blocks import Groups
from tf_finetune.model.freezing import frozen_dropout_off, set_trainable
from tf_finetune.model.laid_open import Steps, multiply_adds
from tf_finetune.model.slicing import Cut, NotCut, cut_of, steps_of

# What a processor multiplies while a byte is read, at 100 GFLOP/s and 1 GB/s; a GPU at 10
# TFLOP/s.
_A_BYTE = {"CPU": 50, "GPU": 5_000}
# No two measurements are the same, and runs should be. So the rule stands unless it costs a
# phase more seconds, and that many times more, by what was measured.
_SECONDS, _TIMES = 2.0, 1.5
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
    rows: int = 0,
    measure: Callable[[Cut], Costs | None] | None = None,
    before: Sequence[str | None] | None = None,
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
        rows: that go through it in an epoch.
        measure: a cut on a batch; without it the rule alone decides.
        before: what `decided` said of the same phases when the run began, which holds.
    """
    try:
        steps = steps_of(groups.model)
    except NotCut as reason:
        return [Planned(why_not=str(reason)) for _ in phases]
    found, changed = _possible(groups, phases, steps)
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
        if before is not None:
            why_not = before[i]
        else:
            own = measure if i >= first else None
            why_not = _does_not_pay(planned, phase.epochs, views, tokens, whole, rows, own)
        if why_not is not None:
            planned.cut, planned.why_not = None, why_not
    return found


def _possible(
    groups: Groups, phases: Sequence[Phase], steps: Steps
) -> tuple[list[Planned], list[set[int]]]:
    """For each phase the cut that there is, and what it may change."""
    found, changed = list[Planned](), list[set[int]]()
    for phase in phases:
        set_trainable(groups, phase.train, phase.batch_norm)
        changed.append(may_change(groups.model))
        with frozen_dropout_off(groups):
            try:
                found.append(Planned(cut=cut_of(steps), made_by=len(found)))
            except NotCut:
                found.append(Planned())
    return found, changed


def decided(planned: Sequence[Planned]) -> list[str | None]:
    """For each phase why it does not train on a cut; None where it does."""
    return [None if one.cut else one.why_not for one in planned]


def _does_not_pay(
    planned: Planned,
    epochs: int,
    views: int,
    tokens: float,
    whole: float,
    rows: int,
    measure: Callable[[Cut], Costs | None] | None,
) -> str | None:
    """Why it does not; None where it does.

    Args:
        planned: whose cut it is.
        epochs: of the phase.
        views: as in `plan_cuts`.
        tokens: of a row.
        whole: the network's multiplications.
        rows: of an epoch.
        measure: as in `plan_cuts`.
    """
    assert planned.cut
    if planned.share < _SHARE:
        return f"only {planned.share:.0%} of the multiplications are in its frozen part"
    # Its own pass over each version takes as long as an epoch's.
    computed, moved = epochs - planned.alone * views, epochs + views
    if computed < 1:
        return "one epoch computes it once" if epochs == 1 else "there are as many views as epochs"
    device = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    bytes_of_row, how = planned.cut.row_bytes(tokens), ""
    pays = planned.share * whole * computed >= _A_BYTE[device] * moved * bytes_of_row
    if costs := measure(planned.cut) if measure else None:
        spared, spent = computed * costs.computing, moved * costs.reading
        less, more = (spent, spared) if pays else (spared, spent)
        if rows * (less - more) > _SECONDS and less > _TIMES * more:
            pays = not pays
            times = (1e3 * seconds for seconds in (costs.reading, costs.computing))
            how = ", {:,.2f} ms where computing takes {:,.2f}".format(*times)
    return None if pays else f"reading {bytes_of_row / 1e3:,.0f} kB a row would take as long{how}"
