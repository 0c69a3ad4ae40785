"""Which settings a tuning tries, and which values of them."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tf_finetune.config import FineTuneConfig
from tf_finetune.data_checks import LANGUAGE
from tf_finetune.errors import UserError
from tf_finetune.fit.phases import unread
from tf_finetune.value_checks import nearest

_NAME = "config.tune.space"
_SOLVER = "fit.probe_solver"
# What makes two runs incomparable, has no better and worse, or is the final run's alone.
_FIXED = (
    "model.task",
    "fit.seed",
    "fit.strategy",
    "fit.peer_timeout",
    "fit.interpolate",
    "fit.retained_floor",
)
# Of a language model: what decides in which unit its loss is.
_UNITS = ("fit.packing", "model.sequence_length", "model.preset")
_NOISE = ("data.token_deletion", "data.token_swap", "data.token_mask")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """All numbers between two; evenly in their logarithm where `log`."""

    low: float
    high: float
    log: bool = False


Space = dict[str, Range | tuple[Any, ...]]


def read_space(config: FineTuneConfig) -> Space:
    """The space in `config.tune.space`, or the recipe's own where that is empty.

    Args:
        config: validated.

    Raises:
        UserError: for a setting that cannot be tuned, or a value that it cannot have.
    """
    if not isinstance(config.phases, str):
        raise UserError(
            "--mode=tune tries settings, which a list in config.phases does not read; name a "
            "recipe there, such as probe_then_tune."
        )
    given = config.tune.space
    if isinstance(given, str):  # from the command line
        try:
            given = json.loads(given) if given else {}
        except ValueError as error:
            raise UserError(f"{_NAME} is no JSON: {error}.") from None
    if not isinstance(given, Mapping):
        raise UserError(f"{_NAME} is {given!r}; it must be a dict of settings, see docs/tuning.md.")
    space = {key: _read(key, values) for key, values in given.items()} or default_space(config)
    if not space:
        raise UserError(
            "config.fit.probe_solver=lbfgs leaves nothing that a tuning tries by itself; name "
            f'settings in {_NAME}, such as "model.pooling", or set config.fit.probe_solver=adamw.'
        )
    for key, values in space.items():
        _check(config, key, values)
    recipes: Any = space.get("phases", (config.phases,))
    solved = _SOLVER not in space and config.fit.probe_solver == "lbfgs"
    by = f"phases={', '.join(recipes)}{' with probe_solver=lbfgs' if solved else ''}"
    for name in sorted(unread(recipes, solved=solved)):
        if f"fit.{name}" in space:
            raise UserError(
                f'{_NAME} names "fit.{name}", which {by} does not read, so '
                "that all trials would be the same. Leave it out, or choose other phases."
            )
    return space


def default_space(config: FineTuneConfig) -> Space:
    """The recipe's rate around its default, and what guards against overfitting."""
    rate = {"probe": "probe_learning_rate", "lora": "lora_learning_rate"}
    name = rate.get(config.phases, "learning_rate")
    middle = getattr(type(config.fit)(), name)
    space: Space = {
        f"fit.{name}": Range(low=middle / 10, high=middle * 10, log=True),
        "fit.weight_decay": (0.0, 0.01, 0.1),
    }
    if config.model.task == LANGUAGE:  # which has no new head
        return space
    if config.phases == "probe" and config.fit.probe_solver == "lbfgs":
        space = {}  # it chooses its penalty itself, and knows neither rate nor dropout
    else:
        space["model.dropout"] = (0.0, 0.1, 0.3)
    if config.phases not in rate:
        space["fit.layer_decay"] = (0.8, 0.9, 1.0)
    if config.model.task != "regression":
        space["fit.label_smoothing"] = (0.0, 0.1)
    return space


def suggested(trial: Any, space: Space, config: FineTuneConfig) -> dict[str, Any]:
    """A value for each setting, by an Optuna trial."""
    return {
        key: trial.suggest_categorical(key, values)
        if isinstance(values, tuple)
        else _number(trial, key, values, whole=isinstance(_value(config, key), int))
        for key, values in space.items()
    }


def _number(trial: Any, key: str, values: Range, *, whole: bool) -> float:
    suggest = trial.suggest_int if whole else trial.suggest_float
    kind = int if whole else float
    return suggest(key, kind(values.low), kind(values.high), log=values.log)


def own_values(config: FineTuneConfig, space: Space) -> dict[str, Any] | None:
    """The configuration's own values, or None where one lies outside the space."""
    own = {key: _value(config, key) for key in space}
    for key, values in space.items():
        inside = (
            own[key] in values
            if isinstance(values, tuple)
            else values.low <= own[key] <= values.high
        )
        if not inside:
            return None
    return own


def some_values(config: FineTuneConfig, space: Space) -> dict[str, Any]:
    """The configuration's own values, or where one lies outside the space the first of each."""
    own = own_values(config, space)
    if own is not None:
        return own
    return {
        key: v[0] if isinstance(v, tuple) else type(_value(config, key))(v.low)
        for key, v in space.items()
    }


def with_values(config: FineTuneConfig, values: Mapping[str, Any]) -> FineTuneConfig:
    """The configuration with other values of some settings."""
    changed = copy.deepcopy(config)
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        setattr(getattr(changed, section) if section else changed, name, value)
    return changed


def _value(config: FineTuneConfig, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


def _read(key: str, values: Any) -> Range | tuple[Any, ...]:
    if isinstance(values, list | tuple) and values:
        return tuple(values)
    if isinstance(values, Mapping) and {"low", "high"} <= set(values) <= {"low", "high", "log"}:
        low, high = values["low"], values["high"]
        numbers = all(type(end) in (int, float) for end in (low, high))
        if numbers and low < high and (low > 0 or not values.get("log")):
            return Range(low=low, high=high, log=bool(values.get("log", False)))
    raise UserError(
        f'{_NAME}["{key}"] is {values!r}; it must be a list of values, or '
        '{"low": number, "high": larger number}, with "log": true where both are above 0.'
    )


def _check(config: FineTuneConfig, key: str, values: Range | tuple[Any, ...]) -> None:
    allowed = [
        f"{section}.{field.name}"
        for section in ("fit", "model")
        for field in dataclasses.fields(getattr(config, section))
    ]
    fixed = (*_FIXED, *(_UNITS if config.model.task == LANGUAGE else ()))
    allowed = [name for name in [*allowed, *_NOISE, "phases"] if name not in fixed]
    if key not in allowed:
        raise UserError(
            f'{_NAME} names "{key}"; settings of fit and model can be tuned, those of noise in '
            f"data, and phases, but not {', '.join(fixed)}.{nearest(key, allowed)}"
        )
    if isinstance(values, Range) and type(_value(config, key)) not in (int, float):
        raise UserError(f'{_NAME}["{key}"] is a range, but {key} is no number; give a list.')
    for value in values if isinstance(values, tuple) else (values.low, values.high):
        if isinstance(values, Range) and isinstance(_value(config, key), int):
            if value != int(value):
                raise UserError(
                    f'{_NAME}["{key}"] has {value!r}, but {key} is a whole number; give whole ends.'
                )
            value = int(value)
        try:
            with_values(config, {key: value}).validate()
        except UserError as error:
            raise UserError(f'{_NAME}["{key}"] has {value!r}: {error}') from None
