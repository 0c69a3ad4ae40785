import pytest

from tf_finetune.config import FineTuneConfig, FitConfig, Phase
from tf_finetune.fit.phases import phases_of


def config(phases):
    fit = FitConfig(
        epochs=3, learning_rate=1e-5, probe_epochs=7, probe_learning_rate=1e-3, train="last:2"
    )
    fit.warmup, fit.patience = 0.2, 4
    return FineTuneConfig(phases=phases, fit=fit)


PROBE = Phase(name="probe", train="head", epochs=7, learning_rate=1e-3, warmup=0.2, patience=4)
TUNE = Phase(name="tune", train="last:2", epochs=3, learning_rate=1e-5, warmup=0.2, patience=4)


@pytest.mark.parametrize(
    ("recipe", "phases"),
    [("probe", [PROBE]), ("full", [TUNE]), ("probe_then_tune", [PROBE, TUNE])],
)
def test_a_recipe_takes_its_values_from_the_fit_settings(recipe, phases):
    assert phases_of(config(recipe)) == phases


def test_listed_phases_are_named_by_what_they_train_and_not_changed():
    given = (Phase(train="last:1"), Phase(name="all of it", epochs=2))
    assert [phase.name for phase in phases_of(config(given))] == ["last:1", "all of it"]
    assert given[0].name == ""
    assert phases_of(config(given))[1] == given[1]
