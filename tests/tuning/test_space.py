"""Which settings are tried, and what is refused before anything is."""

import pytest

from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.errors import UserError
from tf_finetune.tuning.space import Range, own_values, read_space, suggested, with_values


def config_with(space, **changes):
    config = FineTuneConfig()
    config.tune.space = space
    for name, value in changes.items():
        setattr(config, name, value)
    return config


class Trial:
    """Takes the last choice, and the upper end."""

    def suggest_categorical(self, key, values):
        return values[-1]

    def suggest_float(self, key, low, high, log):
        return high

    suggest_int = suggest_float


@pytest.mark.parametrize(
    ("phases", "rate", "middle"),
    [
        ("probe", "fit.probe_learning_rate", 3e-3),
        ("probe_then_tune", "fit.learning_rate", 1e-4),
        ("lora", "fit.lora_learning_rate", 1e-3),
    ],
)
def test_the_default_space_is_around_the_recipes_own_rate(phases, rate, middle):
    config = config_with({}, phases=phases)
    space = read_space(config)
    found = space[rate]
    assert isinstance(found, Range)
    assert (found.low, found.high, found.log) == (pytest.approx(middle / 10), 10 * middle, True)
    assert ("fit.layer_decay" in space) == (phases == "probe_then_tune")
    assert own_values(config, space)[rate] == middle


def test_ends_of_a_whole_number_are_whole():
    with pytest.raises(
        UserError, match=r'"fit.epochs"\] has 0.5, but fit.epochs is a whole number'
    ):
        read_space(config_with({"fit.epochs": {"low": 0.5, "high": 8, "log": True}}))
    assert read_space(config_with({"fit.epochs": {"low": 1.0, "high": 8}}))


def test_regression_has_no_label_smoothing():
    config = FineTuneConfig()
    config.model.task = "regression"
    assert "fit.label_smoothing" not in read_space(config)


@pytest.mark.parametrize(
    "given",
    [
        {"fit.epochs": {"low": 1, "high": 3}, "model.pooling": ["mean", "max"]},
        '{"fit.epochs": {"low": 1, "high": 3}, "model.pooling": ["mean", "max"]}',
    ],
)
def test_a_space_of_ones_own(given):
    config = config_with(given)
    space = read_space(config)
    values = suggested(Trial(), space, config)
    assert values == {"fit.epochs": 3, "model.pooling": "max"}
    assert type(values["fit.epochs"]) is int
    changed = with_values(config, values)
    assert (changed.fit.epochs, changed.model.pooling, config.fit.epochs) == (3, "max", 0)
    # Its own number of epochs, 0, is not in the range.
    assert own_values(config, space) is None


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"fit.lerning_rate": [1e-4]}, 'names "fit.lerning_rate".*mean "fit.learning_rate"'),
        ({"fit.seed": [1, 2]}, 'names "fit.seed"; .* not model.task, fit.seed'),
        ({"data.path": ["a", "b"]}, 'names "data.path"'),
        ({"fit.ema": [0.9, 1.0]}, r'\["fit.ema"\] has 1.0: config.fit.ema is 1.0; it must be'),
        ({"fit.ema": {"low": 0.5, "high": 1.5}}, r'\["fit.ema"\] has 1.5'),
        ({"fit.ema": 0.9}, r'\["fit.ema"\] is 0.9; it must be a list of values, or'),
        ({"fit.ema": []}, "must be a list of values"),
        ({"fit.ema": {"low": 0.5, "high": 0.1}}, "must be a list of values"),
        ({"fit.ema": {"low": 0, "high": 0.1, "log": True}}, "must be a list of values"),
        ({"fit.ema": {"low": 0.1, "hihg": 0.5}}, "must be a list of values"),
        ({"fit.schedule": {"low": 1, "high": 2}}, "is a range, but fit.schedule is no number"),
        ("{", "is no JSON"),
        ([1], "must be a dict of settings"),
    ],
)
def test_what_cannot_be_tried_is_named(space, message):
    with pytest.raises(UserError, match=message):
        read_space(config_with(space))


def test_a_list_of_phases_does_not_read_settings():
    with pytest.raises(UserError, match="name a recipe there"):
        read_space(config_with({}, phases=(Phase(),)))


@pytest.mark.parametrize(
    ("phases", "key"),
    [
        ("lora", "fit.learning_rate"),
        ("lora", "fit.train"),
        ("probe", "fit.epochs"),
        ("full", "fit.probe_epochs"),
        ("probe_then_tune", "fit.lora_learning_rate"),
    ],
)
def test_a_setting_that_no_recipe_reads_is_refused(phases, key):
    values = ["last:1", "all"] if key == "fit.train" else [1, 2]
    with pytest.raises(UserError, match=f'names "{key}", which phases={phases} does not read'):
        read_space(config_with({key: values}, phases=phases))
    assert read_space(config_with({key: values, "phases": ["gradual", "lora"]}, phases=phases))


def test_what_the_final_run_alone_reads_cannot_be_tuned():
    with pytest.raises(UserError, match=r'names "fit\.interpolate"'):
        read_space(config_with({"fit.interpolate": [0.5, 0.9]}))


def test_a_head_that_is_solved_has_neither_rate_nor_dropout():
    config = config_with({}, phases="probe")
    config.fit.probe_solver = "lbfgs"
    assert list(read_space(config)) == ["fit.label_smoothing"]
    config.model.task = "regression"
    with pytest.raises(UserError, match="lbfgs leaves nothing that a tuning tries by itself"):
        read_space(config)
    config = config_with({"fit.probe_learning_rate": [1e-3, 1e-2]}, phases="probe")
    config.fit.probe_solver = "lbfgs"
    with pytest.raises(UserError, match="phases=probe with probe_solver=lbfgs does not read"):
        read_space(config)
    config.tune.space |= {"fit.probe_solver": ["adamw", "lbfgs"]}
    assert "fit.probe_learning_rate" in read_space(config)
