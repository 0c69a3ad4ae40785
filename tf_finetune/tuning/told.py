"""What a tuning leaves for people: a table of its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tf_finetune.results.wording import table


def account(
    monitor: str,
    settings: Sequence[str],
    trials: Sequence[Mapping[str, Any]],
    folder: str,
    earlier: Sequence[str],
) -> str:
    """`tuning.md`.

    Args:
        monitor: the figure that trials are judged by.
        settings: that were tried.
        trials: in order: `values` by setting, `figures` after each phase, `how` it ended
            (`best`, `finished`, `pruned`, `diverged`, `failed` or `refused`) and `seconds`.
        folder: of the final run.
        earlier: folders of final runs with what was best before.
    """
    rows = [
        [
            number,
            *(_short(trial["values"].get(key, "")) for key in settings),
            ", ".join(f"{figure:.4f}" for figure in trial["figures"]),
            f"**{trial['how']}**" if trial["how"] == "best" else trial["how"],
            f"{trial['seconds']:.0f}",
        ]
        for number, trial in enumerate(trials, 1)
    ]
    head = ["trial", *settings, f"{monitor} after each phase", "ended", "seconds"]
    return "\n\n".join(
        [
            "# Tuning",
            "Each trial trained on the training split and was judged on the validation split; no "
            "trial saw a test row. The best of several figures on the same rows is a little too "
            f"good: how good the model is says the test split, which the final run in `{folder}/` "
            f"used once (`{folder}/report.md`). `best.py` is its recipe. A pruned trial was worse "
            "after a phase than half of those before it.",
            *_looked_before(earlier),
            table(head, rows),
            "",
        ]
    )


def _looked_before(earlier: Sequence[str]) -> list[str]:
    if not earlier:
        return []
    names = " and ".join(f"`{name}/`" for name in earlier)
    return [
        f"**Other settings were best before, and their runs ({names}) read the test split too:** "
        "its figure is no longer of a first look, and the best of several such figures is too good."
    ]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
