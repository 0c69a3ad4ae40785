"""Figures and tables as words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tf_finetune.data.findings import safe
from tf_finetune.data_checks import LANGUAGE, TOKENS

NAMES = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "subset_accuracy": "all labels right",
    "log_loss": "log loss",
    "perplexity": "perplexity",
    "token_loss": "loss of a token",
    "token_accuracy": "tokens right",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
}
SHARES = (
    *("f1", "precision", "recall", "accuracy", "macro_f1", "micro_f1", "subset_accuracy"),
    "token_accuracy",
)


def value_of(scores: Mapping[str, Any], name: str) -> str:
    """`86.1%`, `0.3912`, or `undefined`."""
    value = scores.get(name)
    if value is None:
        return "undefined"
    return f"{value:.1%}" if name in SHARES else f"{value:.4g}"


def interval_of(scores: Mapping[str, Any], name: str) -> str:
    """`83.7% to 88.3%`."""
    bounds = scores.get(f"{name}_interval") or [None, None]
    return " to ".join(value_of({name: bound}, name) for bound in bounds)


def with_interval(scores: Mapping[str, Any], name: str) -> str:
    """`86.1% (83.7% to 88.3%)`; the figure alone where it has no interval."""
    text = value_of(scores, name)
    return f"{text} ({interval_of(scores, name)})" if f"{name}_interval" in scores else text


def difference(gain: Mapping[str, Any]) -> str:
    """`+1.2 points (95% interval ...)`, of what `evaluate.gain` found."""
    share = gain["figure"] in SHARES
    values = [gain["value"], *gain["interval"]]
    value, low, high = (f"{100 * v:+.1f} points" if share else f"{v:+.4g}" for v in values)
    return f"{value} (95% interval of the difference {low} to {high}; above zero is better)"


def short(value: Any) -> str:
    """Four digits of a number; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shortened(text: str, most: int) -> str:
    """A text of so many characters at most, the last of them an ellipsis where it is cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


def table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    cells = [[cell(value) for value in row] for row in [list(head), *rows]]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(cells[0]), *lines[1:]])


def cell(value: Any) -> str:
    """A text that can neither break a table nor be taken for HTML, a link, a picture or code."""
    return safe(str(value))


def input_size(card: Mapping[str, Any]) -> str:
    """How large an input is: `at most 128 tokens a text`."""
    if "image_size" in card:
        return f"pictures of {card['image_size']} pixels a side"
    return f"at most {card['sequence_length']} tokens a text"


def decisive(card: Mapping[str, Any]) -> str:
    """The figure that counts."""
    named = {"regression": "mae", "multi_label": "subset_accuracy", TOKENS: "f1"}
    named[LANGUAGE] = "perplexity"
    return named.get(card["task"], "accuracy")


def counted(card: Mapping[str, Any]) -> str:
    """What the support of a class counts."""
    return "entities" if card["task"] == TOKENS else "test rows"
