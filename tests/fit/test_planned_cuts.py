"""Which phases train on a cut, and whose pass over the rows makes their activations."""

import pytest

from tests.tiny import tiny_backbone, tiny_preprocessor
from tf_finetune.config import Phase
from tf_finetune.fit import planned_cuts
from tf_finetune.fit.cut_costs import Costs
from tf_finetune.fit.planned_cuts import decided, plan_cuts
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.task import TextTask

TOKENS = 8.0


@pytest.fixture(scope="module")
def groups():
    task = TextTask(tiny_backbone(0.1, num_layers=4), tiny_preprocessor(), "classification", "ab")
    return layer_groups(task.network, task.backbone)


@pytest.fixture(autouse=True)
def it_pays(monkeypatch):
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 1, "GPU": 1})


def planned(groups, *phases, **options):
    """The host of each phase that trains on a cut; else why it does not."""
    given = [Phase(train=train, epochs=epochs) for train, epochs in phases]
    return [p.made_by if p.cut else p.why_not for p in plan_cuts(groups, given, TOKENS, **options)]


def test_a_phase_of_several_epochs_makes_its_own(groups):
    assert planned(groups, ("last:2", 2)) == [0]


def test_one_epoch_alone_does_not_pay(groups):
    assert planned(groups, ("last:2", 1)) == ["one epoch computes it once"]


def test_a_head_has_features_and_makes_what_later_phases_need(groups):
    phases = ("head", 5), ("last:1", 1), ("last:2", 1), ("last:3", 1), ("all", 2)
    assert planned(groups, *phases) == ["", 0, 0, 0, ""]
    # A run that has no baseline begins with phase 1.
    assert planned(groups, phases[0], *phases, first=1) == ["", "", 1, 1, 1, ""]


def test_what_a_phase_in_between_changes_is_made_anew(groups):
    assert planned(groups, ("last:1", 3), ("last:2", 3), ("last:1", 3)) == [0, 0, 2]
    one = "one epoch computes it once"
    assert planned(groups, ("head", 2), ("last:3", 3), ("last:1", 1)) == ["", 0, one]
    assert planned(groups, ("head", 1), ("norm", 3), ("last:1", 3))[2] == 2


def test_little_below_the_cut_is_not_worth_it(groups):
    (why_not,) = planned(groups, ("last:4", 9))
    assert why_not == "only 0% of the multiplications are in its frozen part"


def test_reading_must_be_faster_than_computing(groups, monkeypatch):
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 10**6, "GPU": 10**6})
    (why_not,) = planned(groups, ("last:1", 9))
    assert why_not == "reading 1 kB a row would take as long"


def test_what_was_measured_overrules_the_rule_where_that_is_clear(groups, monkeypatch):
    def found(computing, reading, rows=1000):
        costs = Costs(computing=computing, reading=reading)
        return planned(groups, ("last:1", 9), rows=rows, measure=lambda cut: costs)[0]

    # 8 times computed, 10 times written or read.
    slow = "reading 1 kB a row would take as long, 2.00 ms where computing takes 1.00"
    assert found(1e-3, 2e-3) == slow
    assert found(1e-3, 1e-3) == 0  # not half as much again
    assert found(1e-3, 2e-3, rows=100) == 0  # of a second or so
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 10**6, "GPU": 10**6})
    assert found(1e-3, 1e-4) == 0
    assert found(1e-3, 1e-3) == "reading 1 kB a row would take as long"
    assert found(1e-3, 1e-4, rows=100) == "reading 1 kB a row would take as long"


def test_what_was_decided_when_a_run_began_holds(groups):
    phases = [Phase(train=train, epochs=3) for train in ("head", "last:1", "last:2", "all")]
    costs = {1: Costs(1.0, 9.0), 2: Costs(9.0, 1.0)}

    def measure(cut):
        return costs[1 if len(cut.suffix) < blocks else 2]

    one, two = (plan_cuts(groups, [phase], TOKENS)[0].cut for phase in phases[1:3])
    blocks = len(two.suffix)
    assert len(one.suffix) < blocks
    then = decided(plan_cuts(groups, phases, TOKENS, rows=1000, measure=measure))
    assert [bool(why_not) for why_not in then] == [False, True, False, False]
    again = plan_cuts(groups, phases, TOKENS, rows=1000, before=then)
    assert decided(again) == then
    # Without it the rule alone would have decided.
    assert decided(plan_cuts(groups, phases, TOKENS))[1] is None
