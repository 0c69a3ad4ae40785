"""Which phases train on a cut, and whose pass over the rows makes their activations."""

import pytest

from tests.tiny import tiny_backbone, tiny_preprocessor
from tf_finetune.config import Phase
from tf_finetune.fit import planned_cuts
from tf_finetune.fit.planned_cuts import plan_cuts
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


def planned(groups, *phases, first=0):
    """The host of each phase that trains on a cut; else why it does not."""
    given = [Phase(train=train, epochs=epochs) for train, epochs in phases]
    return [
        p.made_by if p.cut else p.why_not for p in plan_cuts(groups, given, TOKENS, first=first)
    ]


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
