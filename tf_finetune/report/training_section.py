"""What `report.md` says of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tf_finetune.config import FineTuneConfig
from tf_finetune.results import retention
from tf_finetune.results.wording import short, table


def training(card: Mapping[str, Any], config: FineTuneConfig) -> str:
    """What trained when, its audit, and the epochs."""
    phases = card["phases"]
    rows = [
        [
            p["name"],
            p["train"],
            f"{p['trainable']:,} of {p['total']:,} ({p['trainable'] / p['total']:.1%})",
            f"{p['best_epoch']} of {len(p['history'])}",
            f"{p['seconds']:.1f}",
            f"{p['audit']['trained_moved']} moved, "
            f"{p['audit']['frozen_unchanged']} frozen bit-identical",
        ]
        for p in phases
    ]
    head = [
        "phase",
        "trains",
        "trainable parameters",
        "best epoch",
        "seconds",
        "audit of variables",
    ]
    history = _history([row for p in phases for row in p["history"]])
    return "\n\n".join([table(head, rows), *phase_notes(card, config), history])


def phase_notes(card: Mapping[str, Any], config: FineTuneConfig) -> list[str]:
    """Sentences on what was kept, initial heads and interpolation, where there were any."""
    notes = []
    for p in card["phases"]:
        if share := p.get("kept_share"):
            part = "nearly all" if share > 0.999 else f"{share:.1%}"
            notes.append(
                f"Phase {p['name']}: {part} of the network's multiplications were made once "
                "for each row and kept, instead of in every step."
            )
        if seeds := p.get("seeds"):
            figures = ", ".join(
                "diverged" if figure is None else f"{figure:.4f}" for figure in seeds["figures"]
            )
            spread = seeds["spread"]
            beside = f", standard deviation {spread:.4f}" if spread is not None else ""
            notes.append(
                f"Phase {p['name']} was trained from {len(seeds['figures'])} initial heads: "
                f"{seeds['monitor']} {figures}{beside}. Head {seeds['chosen']} went on."
            )
    if line := card.get("interpolation"):
        scores = ", ".join(retention.point(row) for row in line["sweep"])
        notes.append(
            f"The weights are {line['share']:.0%} of the way from those before tuning to "
            f"those after it, {_chosen(line, config)} ({scores})."
        )
    return notes


def _chosen(line: Mapping[str, Any], config: FineTuneConfig) -> str:
    floor, given = config.fit.retained_floor, config.fit.interpolate
    if given:
        if line["share"] == 1:
            return f"because validation loss was higher at {given:.0%}"
        return "where validation loss was no higher"
    if not line["floor_reached"]:
        return f"which retain most, though less than the floor of {floor:g}"
    among = f" among those with {floor:g} or better on the retained rows" if floor else ""
    return f"the best on validation{among} on the way back to the former"


def _history(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    shown = [key for key in keys if key not in ("step", "examples_per_second")]
    return table(shown, [[short(row.get(key, "")) for key in shown] for row in rows])
