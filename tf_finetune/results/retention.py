"""How good a model still is on rows that it never trains on, beside how good it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_finetune.results import evaluate
from tf_finetune.results.wording import NAMES, decisive, difference, with_interval

FLOOR_MISSED = (
    "No point of the interpolation reached config.fit.retained_floor on the retained rows, so the "
    "one that retains most was taken. Lower the floor, or tune less: fewer epochs, a lower rate, "
    "l2_sp."
)


def account(
    task: str,
    before: np.ndarray | None,
    after: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    **how: Any,
) -> dict[str, Any]:
    """The figures on the retained rows.

    Args:
        task: as in `evaluate.score`, like all that follows.
        before: outputs of the model before it was tuned; None if nothing was.
        after: outputs of the model that is shipped.
        labels: of the rows.
        class_names: in the order of the outputs.
        **how: `bootstrap` and `seed`.

    Returns:
        `after`, and where there is one `before`, as `evaluate.score` gives them, and the
        `change` as `evaluate.gain` does.
    """
    found = {"after": evaluate.score(task, after, labels, class_names, **how)}
    if before is None:
        return found
    return {
        "before": evaluate.score(task, before, labels, class_names, **how),
        **found,
        "change": evaluate.gain(task, after, before, labels, **how),
    }


def line(card: Mapping[str, Any]) -> str:
    """`accuracy 79.1% (...), before tuning 82.0% (...)`."""
    kept, name = card["retained"], decisive(card)
    before = f", before tuning {with_interval(kept['before'], name)}" if "before" in kept else ""
    return f"{NAMES[name]} {with_interval(kept['after'], name)}{before}"


def section(card: Mapping[str, Any]) -> str:
    """What `report.md` says of the retained rows; empty where there are none."""
    if "retained" not in card:
        return ""
    return f"### On the retained rows\n\n{sentences(card)}"


def sentences(card: Mapping[str, Any]) -> str:
    """How good the model is on them, how good it was, and whether that may be chance."""
    kept = card["retained"]
    text = f"On {kept['after']['rows']:,} rows that were never trained on: {line(card)}."
    if change := kept.get("change"):
        low, high = change["interval"]
        verdict = "more than chance explains" if low > 0 or high < 0 else "which may be chance"
        text += f" Tuning changed this by {difference(change)}, {verdict}."
    return text


def point(row: Mapping[str, float]) -> str:
    """One of an interpolation: `40%: 0.8510`, and where it was measured what is retained."""
    kept = f" and {abs(row['retained']):.4f} retained" if "retained" in row else ""
    return f"{row['share']:.0%}: {abs(row['score']):.4f}{kept}"
