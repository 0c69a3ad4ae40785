import dataclasses

import pytest

from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.fit.phases import phases_of, repeated, unread
from tf_finetune.fit_settings import FitConfig


def config(phases):
    fit = FitConfig(
        epochs=3, learning_rate=1e-5, probe_epochs=7, probe_learning_rate=1e-3, train="last:2"
    )
    fit.warmup, fit.patience = 0.2, 4
    fit.lora_learning_rate = 2e-3
    fit.schedule, fit.layer_decay = "cosine", 0.9
    return FineTuneConfig(phases=phases, fit=fit)


PROBE = Phase(name="probe", train="head", epochs=7, learning_rate=1e-3, warmup=0.2, patience=4)
TUNE = Phase(
    name="tune",
    train="last:2",
    epochs=3,
    learning_rate=1e-5,
    warmup=0.2,
    patience=4,
    schedule="cosine",
    layer_decay=0.9,
)
ONE_MORE = [
    dataclasses.replace(TUNE, name=f"open {k}", train=f"last:{k}", epochs=1, schedule="constant")
    for k in (1, 2)
]

LORA = dataclasses.replace(TUNE, name="lora", train="lora", learning_rate=2e-3)


@pytest.mark.parametrize(
    ("recipe", "phases"),
    [
        ("probe", [PROBE]),
        ("full", [TUNE]),
        ("probe_then_tune", [PROBE, TUNE]),
        ("gradual", [PROBE, *ONE_MORE, TUNE]),
        ("lora", [PROBE, LORA]),
    ],
)
def test_a_recipe_takes_its_values_from_the_fit_settings(recipe, phases):
    assert phases_of(config(recipe), 2, 10) == phases


def test_listed_phases_are_named_by_what_they_train_and_not_changed():
    given = (Phase(train="last:1"), Phase(name="all of it", epochs=2))
    assert [phase.name for phase in phases_of(config(given), 2, 10)] == ["last:1", "all of it"]
    assert given[0].name == ""
    assert phases_of(config(given), 2, 10)[1] == given[1]


def test_a_phase_like_the_one_before_is_told_of():
    phases = [
        Phase(name="a", train="head", learning_rate=1e-3),
        Phase(name="b", train="last:1", learning_rate=1e-3),
        Phase(name="c", train="last:1", learning_rate=1e-3, epochs=2),
        Phase(name="d", train="last:1", learning_rate=1e-4),
    ]
    (line,) = repeated(phases, [{1}, {1, 2}, {1, 2}, {1, 2}])
    assert line.startswith("phase c trains what phase b before it does, at the same 0.001; one")


@pytest.mark.parametrize(
    ("updates", "probe", "tune"),
    [(1, 200, 20), (2, 100, 20), (8, 30, 20), (11, 30, 19), (32, 30, 7), (99, 30, 3), (213, 30, 2)],
)
def test_few_rows_are_gone_over_more_often(updates, probe, tune):
    given = config("probe_then_tune")
    given.fit.epochs = given.fit.probe_epochs = 0
    assert [phase.epochs for phase in phases_of(given, 2, updates)] == [probe, tune]


OTHER = {
    "train": "all",
    "epochs": 9,
    "learning_rate": 3e-5,
    "schedule": "linear",
    "layer_decay": 0.5,
    "probe_epochs": 9,
    "probe_learning_rate": 3e-3,
    "lora_learning_rate": 3e-3,
}


@pytest.mark.parametrize("recipe", ["probe", "full", "probe_then_tune", "gradual", "lora"])
def test_a_recipe_reads_all_that_is_not_called_unread(recipe):
    usual = phases_of(config(recipe), 2, 10)
    found = set()
    for name, value in OTHER.items():
        changed = config(recipe)
        setattr(changed.fit, name, value)
        if phases_of(changed, 2, 10) == usual:
            found.add(name)
    assert found == unread([recipe])
