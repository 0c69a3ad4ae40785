"""Every setting of a run, with its default, in one place.

A recipe is a Python file whose ``get_config()`` returns a `FineTuneConfig`; it
states only what differs from these defaults. This module imports neither
TensorFlow nor Keras, so that a mistake in a recipe is reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from tf_finetune.errors import UserError

TASKS = ("classification", "multi_label", "regression")
POOLINGS = ("first", "mean", "max", "backbone")
POLICIES = ("error", "drop", "warn")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
RECIPES = ("probe_then_tune", "probe", "full")


@dataclasses.dataclass(slots=True, kw_only=True)
class DataConfig:
    """Where the labelled examples come from, and how they are checked and split.

    Attributes:
        path: a file, a glob, a folder of text files by class, or several of
            them separated by commas. `.csv`, `.tsv`, `.jsonl` and `.parquet`,
            each also gzipped. `package:NAME/FILE` is a file inside an installed
            Python package, which is read but never imported.
        tfds: a TensorFlow Datasets name that has been prepared on this machine.
        tfds_dir: the folder it was prepared in; empty means the TFDS default.
        delimiter: between the columns of a CSV file; empty means `,` for `.csv`
            and a tab for `.tsv`.
        encoding: of text files.
        where: `COLUMN=VALUE` keeps only the rows with that value.
        text: the column that holds the text.
        text_pair: the column of a second text, for tasks on pairs.
        label: the column that holds the label.
        label_separator: between the labels of one row in a multi-label column.
        classes: the labels that are allowed, in order; empty means those found.
        group: rows with the same value in this column stay in one split.
        split: the column that names the split of each row.
        train: the name of the training split in `split` or of the TFDS split.
        validation: a fraction of the rows (`"0.1"`), a file as in `path`, or,
            with `split` or `tfds`, the name of a split.
        test: as `validation`.
        limit: train on at most this many rows; 0 means all.
        leaks: what to do with training rows that also stand in validation or
            test: `error`, `drop` them from training, or `warn`.
        duplicates: what to do with exact copies inside the training split.
        conflicts: what to do with training rows of equal text, unequal label.
        bad_rows: what to do with rows that are empty, null, unreadable or of an
            unknown label.
        near_duplicates: estimated Jaccard similarity of word 3-grams from which two
            texts count as near duplicates, 0 to 1; 0 turns the search off.
        min_per_class: a class with fewer training rows is an error.
        seed: of the split made here and of `limit`.
    """

    path: str = ""
    tfds: str = ""
    tfds_dir: str = ""
    delimiter: str = ""
    encoding: str = "utf-8"
    where: str = ""
    text: str = "text"
    text_pair: str = ""
    label: str = "label"
    label_separator: str = "|"
    classes: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    train: str = "train"
    validation: str = "0.1"
    test: str = "0.1"
    limit: int = 0
    leaks: str = "drop"
    duplicates: str = "drop"
    conflicts: str = "drop"
    bad_rows: str = "error"
    near_duplicates: float = 0.8
    min_per_class: int = 2
    seed: int = 0


@dataclasses.dataclass(slots=True, kw_only=True)
class ModelConfig:
    """The pretrained backbone and the head put on it.

    Attributes:
        preset: a KerasHub preset name, `hf://OWNER/NAME`, a local Hugging Face or
            KerasHub folder, a `.keras` file, or `minilm` (the packaged one).
        task: `classification` (one label a row), `multi_label` or `regression`.
        pooling: how token states become one vector: `first`, `mean`, `max`, or
            `backbone` for the backbone's own pooled output.
        dropout: rate in front of the head's last layer, 0 to 1.
        sequence_length: tokens a text is cut to; 0 chooses it from the data, up
            to the backbone's limit.
    """

    preset: str = "minilm"
    task: str = "classification"
    pooling: str = "mean"
    dropout: float = 0.1
    sequence_length: int = 0


@dataclasses.dataclass(slots=True, kw_only=True)
class FitConfig:
    """How to train. A recipe in `FineTuneConfig.phases` reads its values here.

    Attributes:
        epochs: passes over the training split in the tuning phase.
        learning_rate: peak rate of the tuning phase, for `global_batch`.
        probe_epochs: most passes of the head-only phase.
        probe_learning_rate: peak rate of the head-only phase.
        train: what the tuning phase trains: `all`, `head` or `last:K` blocks.
        warmup: share of a phase's updates in which the rate rises from 0.
        weight_decay: decoupled, as in AdamW; not on norms and biases.
        clip: global norm that gradients are clipped to; 0 means no clipping.
        label_smoothing: share of the target spread over all classes, 0 to 1.
        patience: epochs without a better validation loss before a phase ends;
            0 means never. A phase always ends on its best epoch.
        global_batch: examples an update, over all devices.
        eval_batch: examples a step in evaluation.
        precision: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where the
            processor multiplies it natively. Variables are always float32.
        cache: run what is frozen below the head once, not once an epoch.
        seed: of the order of examples, dropout and the head's initial weights.
    """

    epochs: int = 2
    learning_rate: float = 1e-4
    probe_epochs: int = 30
    probe_learning_rate: float = 3e-3
    train: str = "all"
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    label_smoothing: float = 0.0
    patience: int = 0
    global_batch: int = 32
    eval_batch: int = 128
    precision: str = "auto"
    cache: bool = True
    seed: int = 0


@dataclasses.dataclass(slots=True, kw_only=True)
class ResultsConfig:
    """What to report and save.

    Attributes:
        bootstrap: resamples behind each 95% interval.
        probe_baseline: also score the head trained alone on the frozen backbone.
        export: write the SavedModel.
    """

    bootstrap: int = 1000
    probe_baseline: bool = True
    export: bool = True


@dataclasses.dataclass(slots=True, kw_only=True)
class Phase:
    """One stretch of training with a fixed set of trained layers.

    Attributes:
        name: for logs and reports; empty means the value of `train`.
        train: `head`, `all` or `last:K` (the head and the last K blocks).
        epochs: passes over the training split.
        learning_rate: peak rate.
        warmup: share of the phase's updates in which the rate rises from 0.
        patience: epochs without a better validation loss before the phase ends;
            0 means never.
    """

    name: str = ""
    train: str = "all"
    epochs: int = 1
    learning_rate: float = 1e-4
    warmup: float = 0.1
    patience: int = 0


@dataclasses.dataclass(slots=True, kw_only=True)
class FineTuneConfig:
    """A whole run.

    Attributes:
        phases: the name of a recipe (`probe_then_tune`, `probe`, `full`), or in
            Python a sequence of `Phase`.
    """

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    phases: Any = "probe_then_tune"
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    results: ResultsConfig = dataclasses.field(default_factory=ResultsConfig)

    def validate(self) -> None:
        """Checks every value that can be checked without reading data.

        Raises:
            UserError: naming the first wrong value, what is allowed and the mend.
        """
        check_types(self, "config")
        _check_values(self)

    def to_json(self) -> str:
        """The whole configuration as indented JSON, from which `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> FineTuneConfig:
        """Reads what `to_json` wrote; an unknown key is a `UserError`."""
        values = json.loads(text)
        phases = values.pop("phases", "probe_then_tune")
        config = _from_mapping(cls, values, "config")
        if not isinstance(phases, str):
            phases = tuple(_from_mapping(Phase, p, "config.phases") for p in phases)
        config.phases = phases
        return config


def nearest(name: str, allowed: typing.Iterable[str]) -> str:
    """` Did you mean "x"?` for a close name among `allowed`, else an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f' Did you mean "{close[0]}"?' if close else ""


def differences(old: FineTuneConfig, new: FineTuneConfig) -> list[str]:
    """One line for each setting that differs: `fit.epochs: 2 -> 3`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before | after)
        if before.get(key) != after.get(key)
    ]


def _leaves(config: FineTuneConfig) -> Iterator[tuple[str, Any]]:
    for section, values in json.loads(config.to_json()).items():
        if isinstance(values, Mapping):
            yield from ((f"{section}.{key}", value) for key, value in values.items())
        else:
            yield section, values


def _from_mapping(cls: type, values: Mapping[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise UserError(f'{where} has no "{key}".{nearest(key, fields)}')
    made = {}
    for key, value in values.items():
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            value = _from_mapping(typing.cast(type, hint), value, f"{where}.{key}")
        elif typing.get_origin(hint) is tuple:
            value = tuple(value)
        made[key] = value
    return cls(**made)


def check_types(config: Any, where: str) -> None:
    """Raises `UserError` where a field's value is not of its annotated type."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        name, value, hint = f"{where}.{field.name}", getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, typing.cast(type, hint)):
                raise UserError(f"{name} is {value!r}; it must be a {hint}.")
            check_types(value, name)
        elif field.name == "phases":
            _check_phases(value, name)
        else:
            _check_leaf(config, field.name, value, hint, name)


def _check_leaf(config: Any, key: str, value: Any, hint: Any, name: str) -> None:
    if hint is float and type(value) is int:
        setattr(config, key, float(value))
        return
    if typing.get_origin(hint) is tuple:
        if isinstance(value, str) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{name} is {value!r}; it must be a sequence of strings.")
        setattr(config, key, tuple(value))
        return
    if key in ("validation", "test") and type(value) in (int, float):
        setattr(config, key, str(value))
        return
    if type(value) is not hint:
        raise UserError(f"{name} is {value!r}; it must be {_article(hint)}.")


def _article(hint: type) -> str:
    return {"int": "a whole number", "float": "a number", "str": "a string"}.get(
        hint.__name__, "True or False"
    )


def _check_phases(phases: Any, name: str) -> None:
    if isinstance(phases, str):
        if phases not in RECIPES:
            raise UserError(
                f'{name} is "{phases}"; a recipe is one of {", ".join(RECIPES)}.'
                + nearest(phases, RECIPES)
            )
        return
    if not isinstance(phases, list | tuple) or not phases:
        raise UserError(f"{name} is {phases!r}; give a recipe's name or a list of Phase.")
    for index, phase in enumerate(phases):
        if not isinstance(phase, Phase):
            raise UserError(f"{name}[{index}] is {phase!r}; it must be a Phase.")
        check_types(phase, f"{name}[{index}]")
        check_phase(phase, f"{name}[{index}]")


def check_phase(phase: Phase, name: str) -> None:
    """Raises `UserError` where a phase has a value that cannot train."""
    _at_least(f"{name}.epochs", phase.epochs, 1)
    _positive(f"{name}.learning_rate", phase.learning_rate)
    _fraction(f"{name}.warmup", phase.warmup)
    _at_least(f"{name}.patience", phase.patience, 0)
    _check_selector(f"{name}.train", phase.train)


def _check_values(config: FineTuneConfig) -> None:
    data, model, fit = config.data, config.model, config.fit
    for field in ("leaks", "duplicates", "conflicts", "bad_rows"):
        _one_of(f"config.data.{field}", getattr(data, field), POLICIES)
    _one_of("config.model.task", model.task, TASKS)
    _one_of("config.model.pooling", model.pooling, POOLINGS)
    _one_of("config.fit.precision", fit.precision, PRECISIONS)
    if data.path and data.tfds:
        raise UserError("config.data.path and config.data.tfds are both set; choose one.")
    if data.where and "=" not in data.where:
        raise UserError(f'config.data.where is "{data.where}"; write COLUMN=VALUE.')
    if len(data.delimiter) > 1:
        raise UserError(f'config.data.delimiter is "{data.delimiter}"; it must be one character.')
    _at_least("config.data.limit", data.limit, 0)
    _at_least("config.data.min_per_class", data.min_per_class, 1)
    _fraction("config.data.near_duplicates", data.near_duplicates)
    if not model.preset:
        raise UserError("config.model.preset is empty; name a preset, a folder or `minilm`.")
    _at_least("config.model.sequence_length", model.sequence_length, 0)
    for name, value in (
        ("config.model.dropout", model.dropout),
        ("config.fit.warmup", fit.warmup),
        ("config.fit.label_smoothing", fit.label_smoothing),
    ):
        _fraction(name, value)
    for field in ("epochs", "probe_epochs", "global_batch", "eval_batch"):
        _at_least(f"config.fit.{field}", getattr(fit, field), 1)
    _positive("config.fit.learning_rate", fit.learning_rate)
    _positive("config.fit.probe_learning_rate", fit.probe_learning_rate)
    _check_selector("config.fit.train", fit.train)
    for field in ("weight_decay", "clip", "patience"):
        _at_least(f"config.fit.{field}", getattr(fit, field), 0)
    _at_least("config.results.bootstrap", config.results.bootstrap, 100)
    if fit.label_smoothing and model.task == "regression":
        raise UserError("config.fit.label_smoothing has no meaning for regression; set it to 0.")


def _check_selector(name: str, value: str) -> None:
    kind, _, count = value.partition(":")
    if value in ("head", "all") or (kind == "last" and count.isdigit() and int(count) > 0):
        return
    raise UserError(f'{name} is "{value}"; allowed: head, all, last:K with K at least 1.')


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(
            f'{name} is "{value}"; allowed: {", ".join(allowed)}.{nearest(value, allowed)}'
        )


def _at_least(name: str, value: float, least: int) -> None:
    if not math.isfinite(value) or value < least:
        raise UserError(f"{name} is {value}; it must be at least {least}.")


def _positive(name: str, value: float) -> None:
    if not math.isfinite(value) or value <= 0:
        raise UserError(f"{name} is {value}; it must be a number above 0.")


def _fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name} is {value}; it must be at least 0 and below 1.")
