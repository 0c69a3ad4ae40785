"""The checks behind `FineTuneConfig.validate`: one sentence for each mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tf_finetune.data_checks import LANGUAGE, NOISE, TOKENS, check_data
from tf_finetune.errors import UserError
from tf_finetune.phase_checks import SCHEDULES, check_selector, check_tunes_blocks
from tf_finetune.task_checks import check_task
from tf_finetune.value_checks import (
    at_least,
    at_most_batch,
    fraction,
    one_of,
    positive,
    seed,
    share,
)

if TYPE_CHECKING:
    from tf_finetune.config import FineTuneConfig
    from tf_finetune.fit_settings import FitConfig

TASKS = ("classification", "multi_label", "regression", TOKENS, LANGUAGE)
POOLINGS = ("first", "mean", "max", "backbone")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
CACHE_PRECISIONS = ("computed", "float32", "bfloat16", "float16")
CLASS_WEIGHTS = ("none", "balanced")
SAMPLINGS = ("shuffle", "balanced")
IMAGE_RESIZES = ("crop", "squash", "pad")
FORMATS = (
    "saved_model",
    "litert",
    "litert_dynamic",
    "litert_int8",
    "onnx",
    "keras_hub",
    "hugging_face",
)
STRATEGIES = ("none", "mirrored", "multi_worker", "tpu")

_LEAST_TOKENS = 8
_LEAST_PIXELS = 8
_AUGMENTATION = ("augment", "flip")


def check_values(config: FineTuneConfig) -> None:
    """Raises `UserError` for the first value that cannot be right, whatever the data."""
    model, fit = config.model, config.fit
    one_of("config.model.task", model.task, TASKS)
    one_of("config.model.pooling", model.pooling, POOLINGS)
    one_of("config.fit.precision", fit.precision, PRECISIONS)
    one_of("config.fit.cache_precision", fit.cache_precision, CACHE_PRECISIONS)
    at_least("config.fit.cache_memory", fit.cache_memory, 0)
    one_of("config.fit.strategy", fit.strategy, STRATEGIES)
    check_data(config.data, model.task)
    check_task(config, _trained(config))
    if not model.preset:
        raise UserError("config.model.preset is empty; name a preset, a folder or `minilm`.")
    if model.sequence_length and model.sequence_length < _LEAST_TOKENS:
        raise UserError(
            f"config.model.sequence_length is {model.sequence_length}; it must be at least "
            f"{_LEAST_TOKENS}, of which the model takes two or three itself, or 0 to choose it "
            "from the data."
        )
    one_of("config.model.image_resize", model.image_resize, IMAGE_RESIZES)
    if model.image_size and model.image_size < _LEAST_PIXELS:
        raise UserError(
            f"config.model.image_size is {model.image_size}; it must be at least {_LEAST_PIXELS}, "
            "or 0 for the size that the backbone was trained with."
        )
    for name, value in (
        ("config.model.dropout", model.dropout),
        ("config.fit.warmup", fit.warmup),
        ("config.fit.ema", fit.ema),
        ("config.fit.label_smoothing", fit.label_smoothing),
    ):
        fraction(name, value)
    for field in ("epochs", "probe_epochs", "save_every"):
        at_least(f"config.fit.{field}", getattr(fit, field), 0)
    for field in ("probe_seeds", "global_batch", "eval_batch", "steps_per_execution"):
        at_least(f"config.fit.{field}", getattr(fit, field), 1)
    for field in ("learning_rate", "probe_learning_rate", "lora_learning_rate"):
        positive(f"config.fit.{field}", getattr(fit, field))
    positive("config.fit.peer_timeout", fit.peer_timeout)
    if fit.strategy != "multi_worker" and fit.peer_timeout != type(fit)().peer_timeout:
        raise UserError(
            f"config.fit.peer_timeout is {fit.peer_timeout:g}, but config.fit.strategy is "
            f'"{fit.strategy}", which waits for nobody; leave it out, or set the strategy to '
            '"multi_worker".'
        )
    seed("config.fit.seed", fit.seed)
    for field in ("weight_decay", "l2_sp", "clip", "patience", "spike_guard", "r_drop"):
        at_least(f"config.fit.{field}", getattr(fit, field), 0)
    if not 0 <= fit.interpolate <= 1:
        raise UserError(f"config.fit.interpolate is {fit.interpolate}; it must be from 0 to 1.")
    at_least("config.fit.micro_batch", fit.micro_batch, -1)
    at_most_batch("config.fit.micro_batch", fit.micro_batch, fit.global_batch)
    _check_mixing(fit)
    share("config.fit.layer_decay", fit.layer_decay)
    one_of("config.fit.schedule", fit.schedule, SCHEDULES)
    check_selector("config.fit.train", fit.train)
    at_least("config.model.lora_rank", model.lora_rank, 1)
    positive("config.model.lora_alpha", model.lora_alpha)
    check_selector("config.model.lora_targets", model.lora_targets)
    at_least("config.results.bootstrap", config.results.bootstrap, 100)
    _check_formats(config)
    at_least("config.tune.trials", config.tune.trials, 1)
    at_least("config.tune.minutes", config.tune.minutes, 0)
    at_least("config.tune.workers", config.tune.workers, 1)
    trained = _trained(config)
    tunes = set(trained) != {"head"} and "lora" not in trained
    if fit.l2_sp and not tunes:
        raise UserError(
            f"config.fit.l2_sp is {fit.l2_sp:g}, which holds pretrained weights while they train; "
            "it needs a phase that trains more than the head, and none that trains lora. Set it to "
            "0, or choose other phases."
        )
    _check_floor(config, tunes)
    _check_balance(fit, model.task)
    _check_noise(config)
    if fit.gradient_checkpointing:
        check_tunes_blocks(trained, "config.fit.gradient_checkpointing")
    if fit.probe_seeds > 1 and not (fit.cache and trained[0] == "head"):
        raise UserError(
            f"config.fit.probe_seeds is {fit.probe_seeds}, but the first phase does not train the "
            "head alone on cached features. Set it to 1, or choose phases that begin with the "
            "head, with config.fit.cache=True."
        )
    _check_solver(fit, trained)
    if fit.label_smoothing and model.task == "regression":
        raise UserError("config.fit.label_smoothing has no meaning for regression; set it to 0.")


def _check_mixing(fit: FitConfig) -> None:
    for field in ("mixup", "cutmix"):
        name, value = f"config.fit.{field}", getattr(fit, field)
        at_least(name, value, 0)
        if value and 1 in (fit.micro_batch, fit.global_batch):
            alone = "micro_batch" if fit.micro_batch == 1 else "global_batch"
            raise UserError(
                f"{name} is {value}, but config.fit.{alone} is 1, which leaves no other example to "
                f"mix with; raise that, or set {field} to 0."
            )
    if fit.mixup and fit.cutmix:
        raise UserError(
            f"config.fit.mixup is {fit.mixup} and config.fit.cutmix {fit.cutmix}, but examples are "
            "mixed in one way; set one of them to 0."
        )


def _check_solver(fit: FitConfig, trained: Sequence[str]) -> None:
    one_of("config.fit.probe_solver", fit.probe_solver, ("adamw", "lbfgs"))
    if fit.probe_solver == "adamw":
        return
    if not fit.cache or "head" not in trained:
        raise UserError(
            'config.fit.probe_solver is "lbfgs", but no phase trains the head alone on cached '
            'features. Set it to "adamw", or choose phases with the head alone, such as '
            '"probe_then_tune", with config.fit.cache=True.'
        )
    if fit.probe_seeds > 1:
        raise UserError(
            f'config.fit.probe_seeds is {fit.probe_seeds}, but config.fit.probe_solver is "lbfgs", '
            "whose result does not depend on the initial head; set one of them back."
        )


def _check_balance(fit: FitConfig, task: str) -> None:
    one_of("config.fit.class_weights", fit.class_weights, CLASS_WEIGHTS)
    one_of("config.fit.sampling", fit.sampling, SAMPLINGS)
    for field, default in (("class_weights", "none"), ("sampling", "shuffle")):
        value = getattr(fit, field)
        if value != default and task != "classification":
            raise UserError(
                f'config.fit.{field} is "{value}", which has a meaning for classification '
                f'alone, not for {task}; set it to "{default}".'
            )
    if fit.sampling == fit.class_weights == "balanced":
        raise UserError(
            "config.fit.sampling and config.fit.class_weights are both balanced, which would "
            "favour rare classes twice; choose one."
        )


def _check_noise(config: FineTuneConfig) -> None:
    """Refuses changes of texts or pictures that no phase would see, and views of none."""
    views, defaults = config.fit.cache_views, type(config.data)()
    at_least("config.fit.cache_views", views, 0)
    noisy = any(getattr(config.data, f) != getattr(defaults, f) for f in (*NOISE, *_AUGMENTATION))
    trained = set(_trained(config))
    solved = config.fit.probe_solver == "lbfgs" and trained == {"head"}
    for missing, why in (
        (not noisy, "nothing in config.data changes them"),
        (not config.fit.cache, "config.fit.cache is False"),
        (trained == {"all"}, "no phase leaves anything frozen"),
        (solved, "config.fit.probe_solver=lbfgs solves for the rows as they are"),
    ):
        if views and missing:
            raise UserError(
                f"config.fit.cache_views is {views}, which keeps changed versions of the training "
                f"rows, but {why}. Set it to 0, or change that."
            )
    if not config.fit.cache or trained != {"head"}:
        return
    if config.fit.cutmix:
        raise UserError(
            f"config.fit.cutmix is {config.fit.cutmix}, but all phases train the head alone, on "
            "features of the pictures as they are. Set it to 0, set config.fit.cache=False, or "
            "choose other phases."
        )
    for fields, what in ((NOISE, "texts"), (_AUGMENTATION, "pictures")):
        for field in fields:
            if not views and getattr(config.data, field) != getattr(defaults, field):
                raise UserError(
                    f"config.data.{field} changes the training {what}, but all phases train the "
                    f"head alone, on features of the {what} as they are. Set it to "
                    f"{getattr(defaults, field)}, keep changed versions by config.fit.cache_views, "
                    "set config.fit.cache=False, or choose other phases."
                )


def _trained(config: FineTuneConfig) -> list[str]:
    """What the phases train in turn; `last:1` for all that `gradual` opens block by block."""
    if not isinstance(config.phases, str):
        return [phase.train for phase in config.phases]
    tuned = config.fit.train
    probe = [] if config.model.task == LANGUAGE else ["head"]
    return {
        "probe": ["head"],
        "full": [tuned],
        "probe_then_tune": ["head", tuned],
        "gradual": [*probe, "last:1", tuned],
        "lora": [*probe, "lora"],
    }[config.phases]


def _check_formats(config: FineTuneConfig) -> None:
    name, formats, pooling = "config.results.formats", config.results.formats, config.model.pooling
    for given in formats:
        one_of(name, given, FORMATS)
    if not formats or len(set(formats)) < len(formats):
        found = f"names {', '.join(formats)}, one of them twice" if formats else "is empty"
        raise UserError(
            f"{name} {found}; name one or more of {', '.join(FORMATS)}, each once, or set "
            "config.results.export=False to write none."
        )
    if "hugging_face" in formats and pooling not in ("backbone", "first"):
        raise UserError(
            f'{name} names "hugging_face", but config.model.pooling is "{pooling}", which no '
            "sequence classifier of transformers computes: they look at the first token alone. "
            'Set config.model.pooling="backbone" (BERT) or "first" (DistilBERT), or leave '
            '"hugging_face" out.'
        )


def _check_floor(config: FineTuneConfig, tunes: bool) -> None:
    name, floor = "config.fit.retained_floor", config.fit.retained_floor
    given = config.fit.interpolate
    at_least(name, floor, 0)
    if not floor:
        return
    if floor > 1 and config.model.task != "regression":
        raise UserError(f"{name} is {floor:g}; an accuracy is at most 1.")
    for missing, setting, mend in (
        (not config.data.retained, "config.data.retained is empty", "name a file there"),
        (bool(given), f"config.fit.interpolate is {given:g}", "set it to 0"),
        (not tunes, "no phase tunes pretrained weights by themselves", "choose other phases"),
    ):
        if missing:
            raise UserError(
                f"{name} is {floor:g}, but {setting}: the floor holds for the weights that "
                f"interpolation chooses, on retained rows. For that {mend}, or set the floor to 0."
            )
