"""The checks behind `FineTuneConfig.validate`: one sentence for each mistake."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any

from tf_finetune.errors import UserError
from tf_finetune.value_checks import (
    at_least,
    at_most_batch,
    check_types,
    fraction,
    nearest,
    one_of,
    positive,
    seed,
    share,
)

if TYPE_CHECKING:
    from tf_finetune.config import FineTuneConfig, Phase
    from tf_finetune.settings import DataConfig

TASKS = ("classification", "multi_label", "regression")
POOLINGS = ("first", "mean", "max", "backbone")
POLICIES = ("error", "drop", "warn")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
RECIPES = ("probe_then_tune", "gradual", "lora", "probe", "full")
SCHEDULES = ("linear", "cosine", "one_cycle", "slanted_triangular", "constant", "plateau")
CLASS_WEIGHTS = ("none", "balanced")
BATCH_NORM = ("freeze", "affine", "update")

_SELECTORS = ("head", "all", "norm", "bias", "lora")
_LEAST_TOKENS = 8
_OF_THE_STEP = ("micro_batch", "mixup", "r_drop")


def check_phases(phases: Any, phase_type: type[Phase], name: str = "config.phases") -> None:
    """Raises `UserError` unless `phases` is a recipe's name or a list of phases."""
    if isinstance(phases, str):
        return one_of(name, phases, RECIPES)
    if not isinstance(phases, list | tuple) or not phases:
        raise UserError(f"{name} is {phases!r}; give a recipe's name or a list of Phase.")
    for index, phase in enumerate(phases):
        if not isinstance(phase, phase_type):
            raise UserError(f"{name}[{index}] is {phase!r}; it must be a Phase.")
        check_types(phase, f"{name}[{index}]")
        check_phase(phase, f"{name}[{index}]")


def check_phase(phase: Phase, name: str) -> None:
    """Raises `UserError` where a phase has a value that cannot train."""
    at_least(f"{name}.epochs", phase.epochs, 1)
    positive(f"{name}.learning_rate", phase.learning_rate)
    fraction(f"{name}.warmup", phase.warmup)
    at_least(f"{name}.patience", phase.patience, 0)
    share(f"{name}.layer_decay", phase.layer_decay)
    one_of(f"{name}.schedule", phase.schedule, SCHEDULES)
    one_of(f"{name}.batch_norm", phase.batch_norm, BATCH_NORM)
    check_selector(f"{name}.train", phase.train)


def check_values(config: FineTuneConfig) -> None:
    """Raises `UserError` for the first value that cannot be right, whatever the data."""
    model, fit = config.model, config.fit
    one_of("config.model.task", model.task, TASKS)
    one_of("config.model.pooling", model.pooling, POOLINGS)
    one_of("config.fit.precision", fit.precision, PRECISIONS)
    _check_data(config.data, model.task)
    if not model.preset:
        raise UserError("config.model.preset is empty; name a preset, a folder or `minilm`.")
    if model.sequence_length and model.sequence_length < _LEAST_TOKENS:
        raise UserError(
            f"config.model.sequence_length is {model.sequence_length}; it must be at least "
            f"{_LEAST_TOKENS}, of which the model takes two or three itself, or 0 to choose it "
            "from the data."
        )
    for name, value in (
        ("config.model.dropout", model.dropout),
        ("config.fit.warmup", fit.warmup),
        ("config.fit.label_smoothing", fit.label_smoothing),
    ):
        fraction(name, value)
    for field in ("epochs", "probe_epochs", "global_batch", "eval_batch"):
        at_least(f"config.fit.{field}", getattr(fit, field), 1)
    for field in ("learning_rate", "probe_learning_rate", "lora_learning_rate"):
        positive(f"config.fit.{field}", getattr(fit, field))
    seed("config.fit.seed", fit.seed)
    for field in ("weight_decay", "clip", "patience", "spike_guard", *_OF_THE_STEP):
        at_least(f"config.fit.{field}", getattr(fit, field), 0)
    at_most_batch("config.fit.micro_batch", fit.micro_batch, fit.global_batch)
    if fit.mixup and 1 in (fit.micro_batch, fit.global_batch):
        alone = "micro_batch" if fit.micro_batch == 1 else "global_batch"
        raise UserError(
            f"config.fit.mixup is {fit.mixup}, but config.fit.{alone} is 1, which leaves no other "
            "example to mix with; raise that, or set mixup to 0."
        )
    share("config.fit.layer_decay", fit.layer_decay)
    one_of("config.fit.schedule", fit.schedule, SCHEDULES)
    check_selector("config.fit.train", fit.train)
    at_least("config.model.lora_rank", model.lora_rank, 1)
    positive("config.model.lora_alpha", model.lora_alpha)
    check_selector("config.model.lora_targets", model.lora_targets)
    at_least("config.results.bootstrap", config.results.bootstrap, 100)
    if fit.interpolate and not _tunes(config.phases):
        raise UserError(
            "config.fit.interpolate goes from the weights before tuning to those after it; it "
            "needs a phase that trains more than the head, and none that trains lora. Set it to "
            "False, or choose other phases."
        )
    one_of("config.fit.class_weights", fit.class_weights, CLASS_WEIGHTS)
    if fit.class_weights != "none" and model.task != "classification":
        raise UserError(
            f'config.fit.class_weights is "{fit.class_weights}", which has a meaning for '
            f'classification alone, not for {model.task}; set it to "none".'
        )
    if fit.label_smoothing and model.task == "regression":
        raise UserError("config.fit.label_smoothing has no meaning for regression; set it to 0.")


def _tunes(phases: Any) -> bool:
    if isinstance(phases, str):
        return phases not in ("probe", "lora")
    trained = {phase.train for phase in phases}
    return trained != {"head"} and "lora" not in trained


def _check_data(data: DataConfig, task: str) -> None:
    if data.path and data.tfds:
        raise UserError("config.data.path and config.data.tfds are both set; choose one.")
    for field in ("leaks", "duplicates", "conflicts", "bad_rows"):
        one_of(f"config.data.{field}", getattr(data, field), POLICIES)
    seed("config.data.seed", data.seed)
    at_least("config.data.limit", data.limit, 0)
    at_least("config.data.min_per_class", data.min_per_class, 1)
    for field in ("near_duplicates", "token_deletion", "token_swap"):
        fraction(f"config.data.{field}", getattr(data, field))
    if data.where and not data.where.partition("=")[1]:
        raise UserError(f'config.data.where is "{data.where}"; write COLUMN=VALUE.')
    if len(data.delimiter) > 1:
        raise UserError(
            f'config.data.delimiter is "{data.delimiter}"; it must be one character'
            " (a tab is $'\\t' in a shell; a .tsv file needs none)."
        )
    try:
        codecs.lookup(data.encoding)
    except LookupError:
        raise UserError(
            f'config.data.encoding is "{data.encoding}", which Python does not know;'
            " examples: utf-8, latin-1, utf-16."
        ) from None
    _check_columns(data)
    _check_classes(data, task)
    _check_fractions(data)


def _check_columns(data: DataConfig) -> None:
    taken: dict[str, str] = {}
    for field in ("text", "label", "text_pair"):
        column = getattr(data, field)
        if not column and field != "text_pair":
            raise UserError(f"config.data.{field} is empty; name the column.")
        if column in taken:
            raise UserError(
                f'config.data.{taken[column]} and config.data.{field} are both "{column}";'
                " each must name a column of its own."
            )
        taken[column] = field


def _check_classes(data: DataConfig, task: str) -> None:
    if task == "multi_label" and not data.label_separator:
        raise UserError("config.data.label_separator is empty; a multi_label task needs one.")
    if data.classes and task == "regression":
        raise UserError("config.data.classes has no meaning for regression; leave it empty.")
    if len(set(data.classes)) < len(data.classes):
        raise UserError(f"config.data.classes names a class twice: {', '.join(data.classes)}.")
    if task == "classification" and len(data.classes) == 1:
        raise UserError(
            f'config.data.classes is "{data.classes[0]}" alone; a classification needs two or more,'
            " separated by commas."
        )


def _check_fractions(data: DataConfig) -> None:
    held_out = 0.0
    for field in ("validation", "test"):
        try:
            found = float(getattr(data, field))
        except ValueError:
            continue  # the name of a file or of a split
        fraction(f"config.data.{field}", found)
        held_out += found
    if held_out >= 1:
        raise UserError(
            f"config.data.validation and config.data.test take {held_out:g} of the rows together;"
            " that leaves none to train on."
        )


def check_selector(name: str, value: str) -> None:
    """Raises `UserError` where a value is no selection of what trains."""
    kind, _, rest = value.partition(":")
    if kind == "re" and rest:
        try:
            re.compile(rest)
        except re.error as error:
            raise UserError(
                f'{name} is "{value}", which is no regular expression: {error}; put a backslash '
                "before signs that stand for themselves."
            ) from None
        return
    count = rest.isdecimal() and int(rest) > 0
    if value in _SELECTORS or (kind == "last" and count) or (kind == "from" and rest):
        return
    raise UserError(
        f'{name} is "{value}"; allowed: head, all, last:K with K at least 1, from:NAME of a block '
        f"or layer, norm, bias, lora, re:PATTERN.{nearest(value, _SELECTORS)}"
    )
