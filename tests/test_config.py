"""The configuration: every default is valid, every wrong value is one sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tf_finetune.config import FineTuneConfig, Phase, differences
from tf_finetune.errors import UserError
from tf_finetune.fit_settings import FitConfig
from tf_finetune.overrides import describe_settings
from tf_finetune.recipe import load_recipe
from tf_finetune.settings import DataConfig, ModelConfig, ResultsConfig

RECIPES = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def changed(key: str, value: Any) -> FineTuneConfig:
    config = FineTuneConfig()
    *sections, name = key.split(".")
    holder: Any = config
    for section in sections:
        holder = getattr(holder, section)
    setattr(holder, name, value)
    return config


def test_defaults_are_valid() -> None:
    FineTuneConfig().validate()


def test_folds_are_splits_by_number() -> None:
    config = FineTuneConfig()
    config.data.split, config.data.train = "fold", "0"
    config.data.validation, config.data.test = "1", "2"
    config.validate()
    config.data.validation = "2"
    with pytest.raises(UserError, match=r'validation and config.data.test are both "2"'):
        config.validate()
    config.data.validation = config.data.test = "0.1"
    config.validate()
    config.data.split = ""
    config.data.validation = "1"
    with pytest.raises(UserError, match=r"config.data.validation is 1"):
        config.validate()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.leaks", "dorp", 'config.data.leaks is "dorp"; allowed: error, drop, warn. Did you'),
        ("data.bad_rows", "", 'config.data.bad_rows is ""; allowed'),
        ("data.where", "source", 'config.data.where is "source"; write COLUMN=VALUE'),
        ("data.delimiter", "||", "config.data.delimiter .* one character"),
        ("data.encoding", "utf9", 'config.data.encoding is "utf9"'),
        ("data.text", "", "config.data.text is empty"),
        ("data.label", "text", 'config.data.text and config.data.label are both "text"'),
        ("data.text_pair", "label", 'config.data.label and config.data.text_pair are both "label"'),
        ("data.classes", "neg,pos", "config.data.classes is 'neg,pos'; .* list of strings"),
        ("data.classes", (0, 1), r"config.data.classes is \(0, 1\); .* list of strings"),
        ("data.classes", ("a", "b", "a"), "config.data.classes names a class twice: a, b, a"),
        ("data.classes", ("a",), 'config.data.classes is "a" alone'),
        ("data.limit", -1, "config.data.limit is -1; it must be at least 0"),
        ("data.limit", True, "config.data.limit is True; it must be a whole number"),
        ("data.limit", 10.0, "config.data.limit is 10.0; it must be a whole number"),
        ("data.seed", -1, "config.data.seed is -1"),
        ("data.min_per_class", 0, "config.data.min_per_class is 0; it must be at least 1"),
        ("data.near_duplicates", 1.0, "config.data.near_duplicates is 1.0; .* below 1"),
        ("data.token_mask", 1.0, "config.data.token_mask is 1.0; it must be at least 0 and below"),
        ("data.test", 1.5, "config.data.test is 1.5; it must be .* below 1"),
        ("data.validation", "-0.1", "config.data.validation is -0.1; it must be"),
        ("data.validation", "nan", "config.data.validation is nan; it must be"),
        ("data.validation", "0.95", r"take 1.05 of the rows together"),
        ("data.text", None, "config.data.text is None; it must be a string"),
        ("data", {"path": "x"}, "config.data is {'path': 'x'}; it must be a DataConfig"),
        ("model.task", "clasification", 'Did you mean "classification"?'),
        ("model.pooling", "cls", 'config.model.pooling is "cls"; allowed: first, mean, max'),
        ("model.preset", "", "config.model.preset is empty"),
        ("model.dropout", 1.0, "config.model.dropout is 1.0"),
        ("fit.interpolate", 1.5, "config.fit.interpolate is 1.5; it must be from 0 to 1"),
        ("fit.interpolate", float("nan"), "config.fit.interpolate is nan"),
        ("fit.interpolate", True, "config.fit.interpolate is True; it must be a number"),
        ("model.dropout", float("nan"), "config.model.dropout is nan"),
        ("model.sequence_length", -1, "config.model.sequence_length is -1"),
        ("fit.steps_per_execution", 0, "steps_per_execution is 0; it must be at least 1"),
        ("fit.steps_per_execution", 2.0, "steps_per_execution is 2.0; it must be a whole number"),
        ("fit.save_every", -1, "config.fit.save_every is -1; it must be at least 0"),
        ("fit.save_every", 0.5, "config.fit.save_every is 0.5; it must be a whole number"),
        ("fit.epochs", -1, "config.fit.epochs is -1; it must be at least 0"),
        ("fit.epochs", 2.5, "config.fit.epochs is 2.5; it must be a whole number"),
        ("fit.learning_rate", 0.0, "config.fit.learning_rate is 0.0; .* above 0"),
        ("fit.learning_rate", "fast", "config.fit.learning_rate is 'fast'; it must be a number"),
        ("fit.probe_learning_rate", float("inf"), "config.fit.probe_learning_rate is inf"),
        ("fit.train", "last:0", 'config.fit.train is "last:0"; allowed: head, all, last:K'),
        ("fit.train", "last", 'config.fit.train is "last"'),
        ("fit.train", "from:", 'config.fit.train is "from:"; allowed: .* from:NAME'),
        ("fit.train", "re:", 'config.fit.train is "re:"; allowed: .* re:PATTERN'),
        ("fit.train", "norms", 'Did you mean "norm"?'),
        ("fit.train", "re:block[1", "is no regular expression: unterminated character set at pos"),
        ("fit.global_batch", -8, "config.fit.global_batch is -8; it must be at least 1"),
        ("fit.micro_batch", -2, "config.fit.micro_batch is -2; it must be at least -1"),
        ("fit.micro_batch", 33, "config.fit.micro_batch is 33, but a batch has 32 examples"),
        ("fit.mixup", -0.1, "config.fit.mixup is -0.1; it must be at least 0"),
        ("fit.cutmix", -1.0, "config.fit.cutmix is -1.0; it must be at least 0"),
        ("fit.mixup", float("inf"), "config.fit.mixup is inf"),
        ("fit.r_drop", -1.0, "config.fit.r_drop is -1.0; it must be at least 0"),
        ("fit.weight_decay", -0.1, "config.fit.weight_decay is -0.1"),
        ("fit.l2_sp", -1.0, "config.fit.l2_sp is -1.0; it must be at least 0"),
        ("fit.ema", 1.0, "config.fit.ema is 1.0; it must be at least 0 and below 1"),
        ("fit.retained_floor", -0.1, "config.fit.retained_floor is -0.1; it must be at least 0"),
        ("fit.retained_floor", 1.5, "config.fit.retained_floor is 1.5; an accuracy is at most 1"),
        ("fit.retained_floor", 0.8, "floor is 0.8, but config.data.retained is empty: .* name a"),
        ("fit.cache_memory", -1.0, "config.fit.cache_memory is -1.0; it must be at least 0"),
        ("fit.cache_precision", "int8", 'config.fit.cache_precision is "int8"; allowed: computed'),
        ("fit.precision", "int8", 'config.fit.precision is "int8"; allowed: auto, float32'),
        ("fit.probe_seeds", 0, "config.fit.probe_seeds is 0; it must be at least 1"),
        (
            "fit.strategy",
            "miror",
            'config.fit.strategy is "miror"; .* mean "mirrored"?',
        ),
        ("fit.sampling", "balance", 'config.fit.sampling is "balance"; .* mean "balanced"?'),
        ("fit.peer_timeout", 9.0, "which waits for nobody; leave it out, or set the strategy"),
        ("fit.peer_timeout", 0.0, "config.fit.peer_timeout is 0.0; it must be a number above 0"),
        ("fit.cache", "no", "config.fit.cache is 'no'; it must be true or false"),
        (
            "fit.gradient_checkpointing",
            1,
            "config.fit.gradient_checkpointing is 1; it must be true",
        ),
        ("data.augment", "mild", 'config.data.augment is "mild"; allowed: none, light, medium'),
        ("model.image_size", 4, "config.model.image_size is 4; it must be at least 8, or 0"),
        ("model.image_size", -1, "config.model.image_size is -1; it must be at least 8, or 0"),
        ("model.image_resize", "croop", 'image_resize is "croop"; .* Did you mean "crop"?'),
        ("results.bootstrap", 10, "config.results.bootstrap is 10; it must be at least 100"),
        ("tune.trials", 0, "config.tune.trials is 0; it must be at least 1"),
        ("tune.minutes", -1.0, "config.tune.minutes is -1.0; it must be at least 0"),
        ("results.formats", ("onx",), 'formats is "onx"; allowed: .* Did you mean "onnx"'),
        ("results.formats", (), "formats is empty; name one or more of saved_model, .*, or set"),
        ("results.formats", ("onnx", "onnx"), "names onnx, onnx, one of them twice"),
        ("results.formats", ("hugging_face",), 'pooling is "mean".*pooling="backbone"'),
        ("phases", "ful", 'config.phases is "ful"; .* Did you mean "full"?'),
        ("phases", (), r"config.phases is \(\); give a recipe's name or a list of Phase"),
        ("phases", 3, "config.phases is 3"),
        ("phases", [{"epochs": 1}], r"config.phases\[0\] is {'epochs': 1}; it must be a Phase"),
        ("phases", [Phase(), Phase(epochs=0)], r"config.phases\[1\].epochs is 0"),
        ("phases", [Phase(learning_rate=-1.0)], r"config.phases\[0\].learning_rate is -1.0"),
        ("phases", [Phase(train="tail")], r'config.phases\[0\].train is "tail"'),
        ("phases", [Phase(warmup=2.0)], r"config.phases\[0\].warmup is 2.0"),
    ],
)
def test_wrong_value_is_named(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(key, value).validate()


def test_settings_that_exclude_each_other() -> None:
    both = changed("data.path", "a.csv")
    both.data.tfds = "imdb_reviews"
    with pytest.raises(UserError, match=r"config.data.path and config.data.tfds are both set"):
        both.validate()
    smooth = changed("model.task", "regression")
    smooth.fit.label_smoothing = 0.1
    with pytest.raises(UserError, match=r"label_smoothing has no meaning for regression"):
        smooth.validate()
    floor = changed("fit.retained_floor", 0.8)
    floor.data.retained = "old.csv"
    with pytest.raises(UserError, match=r"floor is 0.8, but config.fit.interpolate is 0.9"):
        floor.validate()
    floor.fit.interpolate = 0.0
    floor.validate()
    classes = changed("model.task", "regression")
    classes.data.classes = ("a", "b")
    with pytest.raises(UserError, match=r"config.data.classes has no meaning for regression"):
        classes.validate()
    for phases, trained in (("probe", "all"), ("full", "head"), ((Phase(train="head"),), "all")):
        head_only = changed("fit.gradient_checkpointing", True)
        head_only.phases, head_only.fit.train = phases, trained
        with pytest.raises(UserError, match=r"config.fit.gradient_checkpointing is True, but all"):
            head_only.validate()
    for alone in ("micro_batch", "global_batch"):
        mixed = changed(f"fit.{alone}", 1)
        mixed.fit.mixup = 0.2
        with pytest.raises(UserError, match=rf"config.fit.mixup is 0.2, but config.fit.{alone} is"):
            mixed.validate()
    mixed = changed("fit.mixup", 0.2)
    mixed.fit.cutmix = 1.0
    with pytest.raises(UserError, match=r"config.fit.mixup is 0.2 and config.fit.cutmix 1.0, but"):
        mixed.validate()
    mixed.fit.mixup, mixed.phases = 0.0, "probe"
    with pytest.raises(UserError, match=r"config.fit.cutmix is 1.0, but all phases train the head"):
        mixed.validate()
    mixed.fit.cache = False
    mixed.validate()
    pictures = changed("data.image", "path")
    pictures.validate()
    pictures.data.text_pair = "other"
    with pytest.raises(UserError, match=r'data.image is "path" and config.data.text_pair "other"'):
        pictures.validate()
    pictures.data.text_pair, pictures.data.label = "", "path"
    with pytest.raises(UserError, match=r'config.data.image and config.data.label are both "path"'):
        pictures.validate()
    labels = changed("model.task", "multi_label")
    labels.data.label_separator = ""
    with pytest.raises(UserError, match=r"config.data.label_separator is empty"):
        labels.validate()


@pytest.mark.parametrize(
    ("phases", "train", "head_alone", "first", "tunes"),
    [
        ("probe", "all", True, True, False),
        ("full", "all", False, False, True),
        ("full", "head", True, True, False),
        ("full", "lora", False, False, False),
        ("probe_then_tune", "all", False, True, True),
        ("probe_then_tune", "head", True, True, False),
        ("probe_then_tune", "lora", False, True, False),
        ("gradual", "head", False, True, True),
        ("lora", "all", False, True, False),
        ((Phase(train="head"), Phase(train="norm")), "head", False, True, True),
        ((Phase(train="norm"), Phase(train="lora")), "all", False, False, False),
        ((Phase(train="head"), Phase(train="head")), "all", True, True, False),
    ],
)
def test_what_the_phases_train_decides_what_has_a_meaning(
    phases: Any, train: str, head_alone: bool, first: bool, tunes: bool
) -> None:
    def refused(key: str, value: Any) -> bool:
        config = changed(key, value)
        config.phases, config.fit.train = phases, train
        try:
            config.validate()
        except UserError as error:
            return f"config.{key} " in str(error)
        return False

    assert refused("fit.l2_sp", 1e-3) == (not tunes)
    assert refused("fit.gradient_checkpointing", True) == refused("data.token_swap", 0.1)
    assert refused("fit.gradient_checkpointing", True) == head_alone
    assert refused("fit.probe_seeds", 3) == (not first)


def test_balancing_twice_is_refused() -> None:
    config = changed("fit.sampling", "balanced")
    config.fit.class_weights = "balanced"
    with pytest.raises(UserError, match="both balanced, which would favour rare classes twice"):
        config.validate()


@pytest.mark.parametrize("field", ["token_deletion", "token_swap", "token_mask"])
def test_changes_of_texts_that_no_phase_would_see_are_refused(field: str) -> None:
    config = changed(f"data.{field}", 0.1)
    config.validate()
    for phases in ("probe", (Phase(train="head"),)):
        config.phases, config.fit.cache = phases, True
        with pytest.raises(UserError, match=rf"config.data.{field} changes the training texts"):
            config.validate()
        config.fit.cache = False
        config.validate()


@pytest.mark.parametrize(
    ("phases", "cache", "fits"),
    [
        ("probe_then_tune", True, True),
        ("gradual", True, True),
        ("lora", True, True),
        ("probe", True, True),
        ("probe", False, False),
        ("full", True, False),
        ((Phase(train="head"), Phase()), True, True),
        ((Phase(), Phase(train="head")), True, False),
    ],
)
def test_several_seeds_need_a_first_phase_on_cached_features(
    phases: Any, cache: bool, fits: bool
) -> None:
    config = FineTuneConfig(phases=phases)
    config.fit.cache, config.fit.probe_seeds = cache, 3
    if fits:
        config.validate()
        return
    with pytest.raises(UserError, match=r"config.fit.probe_seeds is 3, but the first phase"):
        config.validate()
    config.fit.probe_seeds = 1
    config.validate()


def test_validate_converts_what_cannot_be_mistaken() -> None:
    config = FineTuneConfig()
    config.data.path = Path("reviews.csv")  # type: ignore[assignment]
    config.data.classes = ["neg", "pos"]  # type: ignore[assignment]
    config.data.test = 0.2  # type: ignore[assignment]
    config.fit.clip = 2
    config.validate()
    assert config.data.path == "reviews.csv"
    assert config.data.classes == ("neg", "pos")
    assert config.data.test == "0.2"
    assert isinstance(config.fit.clip, float)


def test_a_numpy_number_is_refused_before_it_reaches_json() -> None:
    with pytest.raises(UserError, match=r"config.fit.epochs .* whole number"):
        changed("fit.epochs", np.int64(3)).validate()


def test_a_misspelt_setting_cannot_be_assigned() -> None:
    with pytest.raises(AttributeError, match="learning_rat"):
        FineTuneConfig().fit.learning_rat = 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "train", ["head", "all", "last:12", "from:block_3", "norm", "bias", r"re:block_\d+/.*bias"]
)
def test_selections_of_what_trains(train: str) -> None:
    changed("fit.train", train).validate()
    changed("phases", [Phase(train=train)]).validate()


@pytest.mark.parametrize(
    "phases", ["full", (Phase(train="head", epochs=3), Phase(train="last:2", learning_rate=1e-5))]
)
def test_json_round_trip(phases: Any) -> None:
    config = FineTuneConfig(phases=phases)
    config.data.classes = ("schlecht", "très bien")
    config.fit.learning_rate = 1 / 3
    again = FineTuneConfig.from_json(config.to_json())
    assert again == config
    again.validate()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"fit": {"epoch": 3}}', 'config.fit has no "epoch". Did you mean "epochs"?'),
        ('{"fti": {}}', 'config has no "fti". Did you mean "fit"?'),
        ('{"phases": [{"epocs": 3}]}', 'config.phases has no "epocs". Did you mean "epochs"?'),
        ('{"data": 3}', "config.data is 3; it must be a JSON object"),
        ("[]", r"config is \[\]; it must be a JSON object"),
        ('{"fit": ', "the configuration is not JSON: .* line 1"),
    ],
)
def test_json_that_does_not_fit(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FineTuneConfig.from_json(text)


def test_differences_name_each_setting() -> None:
    old, new = FineTuneConfig(), FineTuneConfig(phases=(Phase(epochs=3),))
    new.fit.epochs = 5
    new.data.classes = ("a", "b")
    lines = differences(old, new)
    assert "fit.epochs: 0 -> 5" in lines
    assert "data.classes: [] -> ['a', 'b']" in lines
    assert any(line.startswith("phases: 'probe_then_tune' -> [{") for line in lines)
    assert len(lines) == 3
    assert differences(old, FineTuneConfig()) == []


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_are_valid_and_documented(file: Path) -> None:
    config = load_recipe(file)
    config.validate()
    assert FineTuneConfig.from_json(config.to_json()) == config
    assert f"python -m tf_finetune.main --config=configs/{file.name} --workdir=" in file.read_text()


def test_all_recipes_are_there() -> None:
    assert {"default", "imdb", "reviews", "smoke"} <= {file.stem for file in RECIPES}
    assert load_recipe(RECIPES[0].with_name("default.py")) == FineTuneConfig()


@pytest.mark.parametrize("kind", [DataConfig, ModelConfig, FitConfig, ResultsConfig])
def test_every_setting_is_explained_in_the_help(kind: type) -> None:
    section = kind.__name__.removesuffix("Config").lower()
    text = describe_settings()
    for field in dataclasses.fields(kind):
        entry = text.partition(f"--config.{section}.{field.name}=")[2].split("--config.")[0]
        assert len(entry.split()) >= 3, field.name
