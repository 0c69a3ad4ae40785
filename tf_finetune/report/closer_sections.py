"""What `report.md` says of parts of the rows, of mistakes, of labels and of drift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.results.wording import NAMES, decisive, short, shortened, table, value_of

_MISTAKES = 5


def row_sections(card: Mapping[str, Any]) -> str:
    """Of the test rows: by part, by how sure the model is, and the worst mistakes."""
    return "\n\n".join(part for part in (_slices(card), _selective(card), _mistakes(card)) if part)


def label_section(card: Mapping[str, Any]) -> str:
    """Of training rows whose label is probably wrong; empty where none was looked for."""
    audit = card.get("label_audit")
    if not audit:
        return ""
    text = "### Labels that may be wrong\n\n" + suspected(audit)
    rows = [[m["place"], m["label"], m["likely"], _text(m)] for m in audit["first"][:_MISTAKES]]
    return text + ("\n\n" + table(["row", "label", "likely", "text"], rows) if rows else "")


def suspected(audit: Mapping[str, Any]) -> str:
    """How many labels are, by what, and how far that can be trusted."""
    return (
        f"{audit['suspected']:,} of {audit['rows']:,} training rows are suspected, by "
        f"{audit['method']}, which has {audit['probe_accuracy']:.1%} of them as they are "
        "labelled; where it is often wrong, many suspects are no errors. label_audit.csv has "
        "all rows, the most suspect first."
    )


def drift_section(card: Mapping[str, Any]) -> str:
    """Of the weights; empty where none has moved."""
    if not card.get("drift"):
        return ""
    rows = [
        [row["block"], f"{row['relative_l2']:.2%}", "" if row["cka"] is None else short(row["cka"])]
        for row in card["drift"]
    ]
    return (
        "### How far the backbone has moved\n\nThe length of the change of a block's weights, as a "
        "share of their length before, and how alike what it gives is to then (linear CKA, "
        "unbiased; 1 is the same).\n\n" + table(["block", "moved", "alike"], rows)
    )


def _slices(card: Mapping[str, Any]) -> str:
    if not card.get("slices"):
        return ""
    name = decisive(card)
    rows = [
        [s["by"], s["name"], s["rows"], value_of({name: s["value"]}, name), interval(s, name)]
        for s in card["slices"]
    ]
    head = ["by", "part", "test rows", value_name(card), "95% interval"]
    return "### By part\n\n" + table(head, rows)


def interval(part: Mapping[str, Any], name: str) -> str:
    """Of a part that `by_slice` or `selective` found: `83.7% to 88.3%`."""
    return " to ".join(value_of({name: bound}, name) for bound in part["interval"])


def value_name(card: Mapping[str, Any]) -> str:
    """Of the figure that parts are told by."""
    return NAMES[decisive(card)]


def _selective(card: Mapping[str, Any]) -> str:
    if not card.get("selective"):
        return ""
    rows = [
        [
            f"{row['coverage']:.0%}",
            row["rows"],
            f"{row['accuracy']:.1%}",
            interval(row, "accuracy"),
            f"{row['threshold']:.3f}",
        ]
        for row in card["selective"]
    ]
    head = ["of the rows, the surest", "test rows", "right", "95% interval", "at least so sure"]
    return "### If unsure rows are left to a person\n\n" + table(head, rows)


def mistakes_title(card: Mapping[str, Any]) -> str:
    """Of the rows that are most wrong, or of what a language model writes."""
    named = {TOKENS: "The worst rows", LANGUAGE: "What it writes"}
    return named.get(card["task"], "The surest mistakes")


def mistakes_words(card: Mapping[str, Any]) -> tuple[str, str]:
    """For what should have been, and for what the model chose."""
    return ("expected", "written") if card["task"] == LANGUAGE else ("true", "chosen")


def _mistakes(card: Mapping[str, Any]) -> str:
    if not card.get("mistakes"):
        return ""
    rows = [
        [m["place"], m["label"], m["chosen"], short(m["badness"]), _text(m)]
        for m in card["mistakes"][:_MISTAKES]
    ]
    named = {"regression": "error", TOKENS: "wrong entities", LANGUAGE: "loss a token"}
    how = named.get(card["task"], "sure by")
    head = ["row", *mistakes_words(card), how, "prompt" if card["task"] == LANGUAGE else "text"]
    return f"### {mistakes_title(card)}\n\n" + table(head, rows)


def _text(told: Mapping[str, Any]) -> str:
    return shortened(" / ".join(told["texts"]), 120)
