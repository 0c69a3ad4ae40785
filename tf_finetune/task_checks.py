"""Settings that a task has no use for: one sentence for each mistake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tf_finetune.data_checks import LANGUAGE, NOISE, TOKENS
from tf_finetune.errors import UserError

if TYPE_CHECKING:
    from tf_finetune.config import FineTuneConfig

# What has no meaning for a task, or is not made for it, by section.
_NOT_OF = {
    TOKENS: {
        "data": ("tfds", "text_pair", "image", "retained", *NOISE),
        "model": ("pooling",),
        "fit": ("mixup", "r_drop", "probe_solver", "probe_seeds", "strategy"),
        "results": ("formats", "previous"),
    },
    LANGUAGE: {
        "data": ("tfds", "text_pair", "image", "retained", *NOISE),
        "model": ("pooling", "dropout"),
        "fit": ("mixup", "cutmix", "r_drop", "label_smoothing", "probe_solver", "strategy"),
        "results": ("previous",),
    },
}


def check_task(config: FineTuneConfig, trained: Sequence[str]) -> None:
    """Raises `UserError` for the first setting that the task cannot have.

    Args:
        config: of the run.
        trained: what its phases train in turn.
    """
    task = config.model.task
    for section, fields in _NOT_OF.get(task, {}).items():
        settings = getattr(config, section)
        defaults = type(settings)()
        for field in fields:
            value, default = getattr(settings, field), getattr(defaults, field)
            if value != default:
                raise UserError(
                    f"config.{section}.{field} is {value!r}, which is not for "
                    f"config.model.task={task}; leave it at {default!r}."
                )
    if task == LANGUAGE and "head" in trained:
        named = isinstance(config.phases, str)
        found = f'is "{config.phases}"' if named else 'has a phase with train="head"'
        raise UserError(
            f"config.phases {found}, which trains a new head, and a causal_lm gets none: it "
            "answers by the pretrained one. Set it to lora, full or gradual, or to a list of "
            "phases without the head."
        )
    if config.fit.packing and task != LANGUAGE:
        raise UserError(
            f"config.fit.packing is True, which is for config.model.task={LANGUAGE}, not for "
            f"{task}; leave it out."
        )
