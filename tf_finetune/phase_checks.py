"""Checks of phases: what a recipe or a list of them may say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tf_finetune.errors import UserError
from tf_finetune.value_checks import (
    at_least,
    check_types,
    fraction,
    nearest,
    one_of,
    positive,
    share,
)

if TYPE_CHECKING:
    from tf_finetune.config import Phase

RECIPES = ("probe_then_tune", "gradual", "lora", "probe", "full")
SCHEDULES = ("linear", "cosine", "one_cycle", "slanted_triangular", "constant", "plateau")
BATCH_NORM = ("freeze", "affine", "update")

_SELECTORS = ("head", "all", "norm", "bias", "lora")


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


def check_tunes_blocks(trained: Iterable[str], name: str) -> None:
    """Raises `UserError` for checkpointing where no gradient goes through a block."""
    if set(trained) == {"head"}:
        raise UserError(
            f"{name} is True, but all phases train the head alone, which keeps no activations of "
            "blocks. Set it to False, or choose phases that train more."
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
