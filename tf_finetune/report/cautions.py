"""What a reader of the figures should know besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tf_finetune.report.export_section import losses, word_of
from tf_finetune.results.retention import FLOOR_MISSED
from tf_finetune.results.wording import SHARES, cell, counted, decisive

_FEW_ROWS = 30


def cautions(card: Mapping[str, Any]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in caution_lines(card))


def caution_lines(card: Mapping[str, Any]) -> list[str]:
    """Those that apply."""
    test, name, word = card["test"], decisive(card), word_of(card)
    found = [
        f"The intervals hold for {word}s like those of the test split. On {word}s from elsewhere, "
        "expect less."
    ]
    if card.get("grouped"):
        found.append(
            "Intervals and tests take rows for independent. Those of one group are not, so both "
            "say more than is known."
        )
    small = [n for n, s in test.get("per_class", {}).items() if s["support"] < _FEW_ROWS]
    if small:
        found.append(
            f"Fewer than {_FEW_ROWS} {counted(card)}, so little is known of them: "
            + ", ".join(f"`{cell(n)}` ({test['per_class'][n]['support']})" for n in small[:10])
            + (f" and {len(small) - 10} more." if len(small) > 10 else ".")
        )
    low, high = test[f"{name}_interval"]
    if name in SHARES and high - low > 0.1:
        found.append("The interval is wider than ten points; a larger test split would narrow it.")
    if unseen := test.get("unseen_words"):
        found.append(
            f"The model does not see {unseen:,} of {test['words']:,} test words, because rows are "
            "too long or words hold control characters alone; they count as tagged O."
        )
    if (readings := card.get("test_readings", 1)) > 1:
        found.append(
            f"The test split was read {readings} times: the run was stopped while it was judged, "
            "and the same model was judged again. Nothing was chosen by it in between."
        )
    line = card.get("interpolation") or {}
    if not line.get("floor_reached", True):
        found.append(FLOOR_MISSED)
    found += losses(card)
    # Why is said where no model card goes: it may show a row.
    found += [
        f"There is no export as `{name}`, which failed: `failed_exports` in metrics.json says why."
        for name in card.get("failed_exports", {})
    ]
    for phase in card["phases"]:
        if skipped := phase.get("skipped"):
            found.append(
                f"The loss of phase `{phase['name']}` blew up {len(skipped)} times; batches were "
                "skipped and the rate halved. A lower learning rate would do without."
            )
        if solved(phase):
            continue
        if phase["best_epoch"] == len(phase["history"]) > 1:
            found.append(
                f"Phase `{phase['name']}` was still improving at its last epoch; more epochs may "
                "give more."
            )
        elif phase["best_epoch"] == 0:
            found.append(
                f"No epoch of phase `{phase['name']}` was better on validation than its start, "
                "which was kept; a lower learning rate may do better."
            )
    return found


def solved(phase: Mapping[str, Any]) -> bool:
    """Whether a phase was solved for under several penalties: it has neither epochs nor a rate."""
    return any("penalty" in row for row in phase["history"])
