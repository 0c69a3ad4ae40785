"""Checks of the settings of `config.data`: one sentence for each mistake."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from tf_finetune.errors import UserError
from tf_finetune.value_checks import at_least, fraction, one_of, seed

if TYPE_CHECKING:
    from tf_finetune.settings import DataConfig

TOKENS = "token_classification"
LANGUAGE = "causal_lm"
POLICIES = ("error", "drop", "warn")
AUGMENTS = ("none", "light", "medium", "strong")
NOISE = ("token_deletion", "token_swap", "token_mask")


def check_data(data: DataConfig, task: str) -> None:
    """Raises `UserError` for the first setting of the data that cannot be right."""
    if data.path and data.tfds:
        raise UserError("config.data.path and config.data.tfds are both set; choose one.")
    for field in ("leaks", "duplicates", "conflicts", "bad_rows"):
        one_of(f"config.data.{field}", getattr(data, field), POLICIES)
    one_of("config.data.augment", data.augment, AUGMENTS)
    seed("config.data.seed", data.seed)
    at_least("config.data.limit", data.limit, 0)
    at_least("config.data.min_per_class", data.min_per_class, 1)
    for field in ("near_duplicates", *NOISE):
        fraction(f"config.data.{field}", getattr(data, field))
    if data.where and not all(data.where.partition("=")[:2]):
        raise UserError(f'config.data.where is "{data.where}"; write COLUMN=VALUE.')
    if len(data.delimiter) > 1:
        raise UserError(
            f'config.data.delimiter is "{data.delimiter}"; it must be one character'
            " (a tab is $'\\t' in a shell; a .tsv file needs none)."
        )
    try:
        known = codecs.lookup(data.encoding)._is_text_encoding  # unlike "hex"
    except LookupError:
        known = False
    if not known:
        raise UserError(
            f'config.data.encoding is "{data.encoding}", which Python does not know;'
            " examples: utf-8, latin-1, utf-16."
        )
    _check_columns(data)
    _check_classes(data, task)
    _check_fractions(data)


def _check_columns(data: DataConfig) -> None:
    if data.image and data.text_pair:
        raise UserError(
            f'config.data.image is "{data.image}" and config.data.text_pair "{data.text_pair}"; '
            "a run is about pictures or about texts: leave one of them empty."
        )
    taken: dict[str, str] = {}
    # Where rows are pictures, no text is read.
    for field in ("image" if data.image else "text", "label", "text_pair"):
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
    if data.soft_labels and task != "classification":
        raise UserError(
            f"config.data.soft_labels is True, but config.model.task is {task}; shares of classes "
            "belong to a classification."
        )
    if data.classes and task in ("regression", LANGUAGE):
        raise UserError(f"config.data.classes has no meaning for {task}; leave it empty.")
    if len(set(data.classes)) < len(data.classes):
        raise UserError(f"config.data.classes names a class twice: {', '.join(data.classes)}.")
    if task == TOKENS and any(name[:2] in ("B-", "I-") or name == "O" for name in data.classes):
        raise UserError(
            f"config.data.classes is {', '.join(data.classes)}; for {TOKENS} name the types of "
            "entities, as PER,LOC, without O, B- and I-."
        )
    if task == "classification" and len(data.classes) == 1:
        raise UserError(
            f'config.data.classes is "{data.classes[0]}" alone; a classification needs two or more,'
            " separated by commas."
        )


def _check_fractions(data: DataConfig) -> None:
    # A split of this name, where there is a column of splits: folds are called 0, 1, ...
    named, held_out = bool(data.split or data.tfds), 0.0
    for field in ("validation", "test"):
        try:
            found = float(getattr(data, field))
        except ValueError:
            continue  # the name of a file or of a split
        if named and not 0 < found < 1:
            continue
        fraction(f"config.data.{field}", found)
        held_out += found
    if held_out >= 1:
        raise UserError(
            f"config.data.validation and config.data.test take {held_out:g} of the rows together;"
            " that leaves none to train on."
        )
    if named and data.validation == data.test and not held_out:
        raise UserError(
            f'config.data.validation and config.data.test are both "{data.test}", but a row '
            "belongs to one split. Name another for one of them, or give a fraction, as 0.1, that "
            "is cut from the training rows."
        )
