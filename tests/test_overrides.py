"""`--config.KEY=VALUE`: typed by the dataclass, and a nearest key for a wrong one."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.errors import UserError
from tf_finetune.overrides import override


def two_phases() -> FineTuneConfig:
    return FineTuneConfig(phases=(Phase(train="head", epochs=3), Phase(train="all")))


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--config.data.path=a=b.csv"], "data.path", "a=b.csv"),
        (["--config.data.path", "b.csv"], "data.path", "b.csv"),
        (["-config.data.label=stars"], "data.label", "stars"),
        (["--config.data.validation=0.2"], "data.validation", "0.2"),
        (["--config.data.classes=neg,pos"], "data.classes", ("neg", "pos")),
        (["--config.data.classes=0, 1"], "data.classes", ("0", "1")),
        (["--config.data.classes=very bad,good"], "data.classes", ("very bad", "good")),
        (
            ["--config.data.classes=neg", "--config.data.classes=pos"],
            "data.classes",
            ("neg", "pos"),
        ),
        (["--config.data.classes="], "data.classes", ()),
        (["--config.fit.epochs=3", "--config.fit.epochs=4"], "fit.epochs", 4),
        (["--config.fit.learning_rate=1e-5"], "fit.learning_rate", 1e-5),
        (["--config.fit.clip=2"], "fit.clip", 2.0),
        (["--config.fit.cache=false"], "fit.cache", False),
        (["--noconfig.fit.cache"], "fit.cache", False),
        (["--config.results.export"], "results.export", True),
        (["--config.phases=full"], "phases", "full"),
    ],
)
def test_value_arrives_with_its_type(arguments: list[str], key: str, value: Any) -> None:
    config, rest = override(FineTuneConfig(), arguments)
    config.validate()
    found: Any = config
    for name in key.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)
    assert rest == []


def test_phases_of_a_recipe_are_set_one_by_one() -> None:
    config, _ = override(two_phases(), ["--config.phases[1].epochs=7"])
    assert [phase.epochs for phase in config.phases] == [3, 7]
    config, _ = override(two_phases(), ["--config.phases=probe"])
    assert config.phases == "probe"


def test_the_configuration_given_stays_as_it_was() -> None:
    config = two_phases()
    before = copy.deepcopy(config)
    override(config, ["--config.phases[0].epochs=9", "--config.fit.seed=5"])
    assert config == before


def test_what_is_no_flag_is_handed_back() -> None:
    _, rest = override(FineTuneConfig(), ["a text", "--config.fit.seed", "5", "another"])
    assert rest == ["a text", "another"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.paht=x", '"config.data.paht". Did you mean "config.data.path"?'),
        ("dat.path=x", '"config.dat.path". Did you mean "config.data.path"?'),
        ("learning_rate=1", 'Did you mean "config.fit.learning_rate"?'),
        ("model.learning_rate=1", 'Did you mean "config.fit.learning_rate"?'),
        ("qqq=1", 'there is no setting "config.qqq".$'),
        ("fit.epochs.x=1", 'there is no setting "config.fit.epochs.x"'),
        ("data=x", "config.data is a group of settings; set one of them: config.data.path"),
        ("fit.learning_rate=fast", 'config.fit.learning_rate is "fast"; it must be a number'),
        ("fit.epochs=2.5", 'config.fit.epochs is "2.5"; it must be a whole number'),
        ("fit.epochs=", 'config.fit.epochs is ""; it must be a whole number'),
        ("fit.cache=maybe", 'config.fit.cache is "maybe"; it must be true or false'),
        ("fit.epochs", "Missing value for flag --config.fit.epochs"),
        ("phases[0].epochs=3", r"--config.phases\[0\].epochs needs a recipe file in which"),
    ],
)
def test_wrong_override(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(FineTuneConfig(), [f"--config.{argument}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.phases[2].epochs=3"], "there are 2 phases, counted from 0"),
        (["--config.phases[1].epocs=3"], r'Did you mean "config.phases\[1\].epochs"?'),
        (["--config.phases[1].epochs=x"], r'config.phases\[1\].epochs is "x"; .* whole number'),
        (["--config.phases[1].epochs=3", "--config.phases=full"], "needs a recipe file"),
    ],
)
def test_wrong_override_of_a_phase(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(two_phases(), arguments)


def test_unknown_flag_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r'no flag --wrokdir\. Did you mean "--workdir"\?'):
        override(FineTuneConfig(), ["--wrokdir=x"], known=("workdir", "mode"))
