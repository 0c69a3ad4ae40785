"""What `report.html` shows of the data, the training and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_finetune.config import FineTuneConfig, differences
from tf_finetune.report.export_section import RUNTIMES, on_test, on_test_head, word_of
from tf_finetune.report.markdown import class_counts, made_again, opening_lines, task_name
from tf_finetune.report.training_section import phase_notes
from tf_finetune.results.wording import input_size, short

# Of more classes the page has the first; all are in data_report.md.
_MOST_CLASSES = 50


def data_parts(card: Mapping[str, Any], prepared: Any) -> dict[str, Any]:
    """Rows of each split, and what was found wrong with them."""
    splits, names = prepared.splits, prepared.class_names
    rows: list[list[Any]] = [["all", *(f"{count:,}" for count in prepared.counts.values())]]
    if names:
        counts = [class_counts(prepared.labels[rows], len(names)) for rows in splits.values()]
        by_class = zip(names, *counts, strict=True)
        rows += [[name, *(f"{n:,}" for n in each)] for name, *each in by_class][:_MOST_CLASSES]
    findings = prepared.findings
    return {
        "splits": {"head": ["class", *splits], "rows": rows},
        "findings": [
            {
                "kind": kind,
                "count": f"{findings.count(kind):,}",
                "action": findings[kind].action,
                "examples": findings[kind].examples,
            }
            for kind in findings.kinds()
        ],
    }


def run_parts(card: Mapping[str, Any], config: FineTuneConfig) -> dict[str, Any]:
    """Title and opening, phases and epochs, cost, exports, and how it was made."""
    phases = card["phases"]
    history = [row for phase in phases for row in phase["history"]]
    keys = list(dict.fromkeys(key for row in history for key in row))
    return {
        "title": f"{config.model.preset}, fine-tuned for {task_name(card['task'])}",
        "opening": [line.replace("**", "") for line in opening_lines(card)],
        "phases": _phases(phases),
        "notes": phase_notes(card, config),
        "history": {
            "head": keys,
            "rows": [[_figure(key, row.get(key, "")) for key in keys] for row in history],
        },
        "cost": _cost(card),
        "exports": _exports(card),
        "command": card.get("command") or "fine_tune() in Python",
        "again": made_again(card, config).replace("`", ""),
        "settings": "\n".join(differences(FineTuneConfig(), config)) or "all as the defaults",
        "digest": card["data_digest"],
        "versions": ", ".join(f"{name} {v}" for name, v in card["versions"].items()),
    }


def _exports(card: Mapping[str, Any]) -> dict[str, Any] | None:
    if not card.get("exports"):
        return None
    word, beside = word_of(card), on_test_head(card)
    head = ["what", "run by", "MB", "differs by", "compared", *beside, "ms for one", "where"]
    return {
        "caption": "Each was reloaded in a fresh process, on its own runtime, and held against "
        f"the model. The time is the median for one {word} at a time on the processor of this "
        "machine.",
        "head": head,
        "rows": [
            [
                name,
                RUNTIMES[name],
                f"{one['bytes'] / 1e6:.1f}",
                f"{one['max_difference']:.1e}",
                one["texts"],
                *([on_test(one)] if beside else []),
                "" if one["milliseconds"] is None else f"{one['milliseconds']:.1f}",
                one["path"],
            ]
            for name, one in card["exports"].items()
        ],
    }


def _phases(phases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    head = ["phase", "trains", "parameters", "share", "best epoch", "seconds"]
    return {
        "head": [*head, "variables that moved", "frozen, bit-identical"],
        "rows": [
            [
                p["name"],
                p["train"],
                f"{p['trainable']:,} of {p['total']:,}",
                f"{p['trainable'] / p['total']:.1%}",
                f"{p['best_epoch']} of {len(p['history'])}",
                f"{p['seconds']:.1f}",
                p["audit"]["trained_moved"],
                p["audit"]["frozen_unchanged"],
            ]
            for p in phases
        ],
    }


def _cost(card: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [f"seconds, {key.replace('_', ' ')}", f"{value:.1f}"]
        for key, value in card["seconds"].items()
    ]
    for phase in card["phases"]:
        speeds = [r["examples_per_second"] for r in phase["history"] if "examples_per_second" in r]
        if speeds:
            rows.append([f"examples a second, phase {phase['name']}", f"{np.median(speeds):,.0f}"])
    rows.append(["most memory, GB", f"{card['peak_memory_bytes'] / 1e9:.2f}"])
    rows.append(["computed in", card["precision"]])
    rows.append(["inputs", input_size(card)])
    return rows


def _figure(key: str, value: Any) -> str:
    return f"{value:,.0f}" if key == "examples_per_second" and value else short(value)
