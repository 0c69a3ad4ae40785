"""The account of a run, for a reader who was not there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.config import FineTuneConfig, differences
from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.report import export_section
from tf_finetune.report.cautions import cautions
from tf_finetune.report.closer_sections import drift_section, label_section, row_sections
from tf_finetune.report.training_section import training
from tf_finetune.report.usage_section import usage
from tf_finetune.results import calibration, retention
from tf_finetune.results.wording import (
    NAMES,
    counted,
    decisive,
    difference,
    input_size,
    interval_of,
    table,
    value_of,
    with_interval,
)
from tf_finetune.workdir import RECIPE

# Beyond so many classes a table is no longer read; the rest is in metrics.json.
_MOST_CLASSES = 20
BASELINES = {
    "probe": "head alone",
    "majority": "knows only the training labels",
    "previous": "the run before",
    "word_tags": "each word's most frequent tag",
    "untuned": "before fine-tuning",
}


def render(card: Mapping[str, Any], config: FineTuneConfig, prepared: Any) -> str:
    """`report.md` of a run.

    Args:
        card: as in `metrics.json`: `test`, `validation`, `baselines`, `phases`,
            `seconds`, `export` (or None), `versions`, `command`, ...
        config: the run's.
        prepared: with `splits`, `labels`, `class_names` and `findings`.

    Returns:
        Markdown.
    """
    sections = [
        f"# {config.model.preset}, fine-tuned for {task_name(card['task'])}",
        "\n".join(opening_lines(card)),
        "## On the test split",
        figures(card),
        _classes(card),
        calibration.section(card),
        row_sections(card),
        retention.section(card),
        "## To keep in mind",
        cautions(card),
        "## Data",
        _data(card, prepared),
        label_section(card),
        "## Training",
        training(card, config),
        drift_section(card),
        "## Use it",
        usage(card, config),
        export_section.section(card),
        "## How it was made",
        _origin(card, config),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def summary(card: Mapping[str, Any], workdir: Path) -> str:
    """A few lines for a terminal: figures beside baselines, and where things are."""
    name = decisive(card)
    lines = [f"test: {NAMES[name]} {with_interval(card['test'], name)}"]
    for key, scores in card["baselines"].items():
        lines.append(f"      {with_interval(scores, name)} {BASELINES.get(key, key)}")
    if "retained" in card:
        lines.append("retained: " + retention.line(card))
    lines.append(f"report: {workdir / 'report.html'} (or .md); model: {workdir / 'model.keras'}")
    if card.get("export"):
        lines.append(f"export: {card['export']['path']}")
    return "\n".join(lines)


def task_name(task: str) -> str:
    """As people write it."""
    named = {"multi_label": "multi-label classification", LANGUAGE: "responses to prompts"}
    return named.get(task, task.replace("_", " "))


def opening_lines(card: Mapping[str, Any]) -> list[str]:
    """The figure that counts, its interval and what stands beside it, in sentences."""
    test, name = card["test"], decisive(card)
    lines = [
        f"On {test['rows']:,} test rows, which took no part in training or in any choice, the "
        f"model's {NAMES[name]} is **{value_of(test, name)}** (95% interval "
        f"{interval_of(test, name)})."
    ]
    if card["task"] == TOKENS:
        lines.append(
            f"It counts whole entities, {test['entities']:,} in {test['words']:,} words: one is "
            "right where its type and all of its words are."
        )
    if card["task"] == LANGUAGE:
        lines.append(
            f"It counts the {test['tokens']:,} tokens of the responses, each foreseen from the "
            "prompt and the response before it: among so many equally likely tokens the model "
            "would be as unsure."
        )
    for key, scores in card["baselines"].items():
        what = {
            "majority": "A guess that knows only the training labels",
            "probe": "The same head trained alone on the untouched backbone",
            "previous": "The run before (`results.previous`)",
            "word_tags": "A guess that gives each word its most frequent tag in training",
            "untuned": "The same model before fine-tuning",
        }.get(key, key)
        lines.append(f"{what} gets {value_of(scores, name)}.")
    if gain := card.get("gain_over_probe"):
        opening = "Beyond the head alone, fine-tuning the backbone changed this by"
        lines.append(_gain(gain, opening, "the head alone"))
    if gain := card.get("gain_over_untuned"):
        opening = "On the same rows, fine-tuning lowered it by"
        lines.append(_gain(gain, opening, "the model as it was"))
    if gain := card.get("gain_over_previous"):
        opening = "Beside the run before, this one changed it by"
        lines.append(_gain(gain, opening, "the run before"))
    return lines


def _gain(gain: Mapping[str, Any], opening: str, other: str) -> str:
    if gain["interval"][0] > 0:
        verdict = "more than chance explains"
    elif gain["interval"][1] < 0:
        verdict = f"**worse** by more than chance explains: ship {other}"
    else:
        verdict = "which may be chance"
    text = f"{opening} {difference(gain)}, {verdict}."
    if test := gain.get("mcnemar"):
        text += (
            f" Of the rows, {test['only_first']:,} only this model has right and "
            f"{test['only_second']:,} only {other} (McNemar's exact p = {test['p']:.2g})."
        )
    return text


def figures(card: Mapping[str, Any]) -> str:
    """All figures on the test rows, beside the baselines."""
    columns = {"this model": card["test"]}
    columns |= {BASELINES.get(k, k): scores for k, scores in card["baselines"].items()}
    names = [name for name in NAMES if name in card["test"]]
    rows = [[NAMES[n], *(with_interval(s, n) for s in columns.values())] for n in names]
    return table(["", *columns], rows) + "\n\nIn brackets: 95% bootstrap intervals."


def _classes(card: Mapping[str, Any]) -> str:
    per_class = card["test"].get("per_class")
    if not per_class:
        return ""
    rows = [
        [name, *(f"{scores[key]:.3f}" for key in ("precision", "recall", "f1")), scores["support"]]
        for name, scores in sorted(per_class.items(), key=lambda item: -item[1]["support"])
    ]
    text = "### By class\n\n"
    head = ["class", "precision", "recall", "F1", counted(card)]
    text += table(head, rows[:_MOST_CLASSES])
    if len(rows) > _MOST_CLASSES:
        text += f"\n\nThe {_MOST_CLASSES} largest of {len(rows)}; all are in metrics.json."
    return text + _confusion(card)


def _confusion(card: Mapping[str, Any]) -> str:
    if "confusion" not in card["test"]:
        return ""
    counts, names = np.array(card["test"]["confusion"]), card["class_names"]
    if len(names) <= _MOST_CLASSES // 2:
        rows = [[f"**{name}**", *line] for name, line in zip(names, counts.tolist(), strict=True)]
        head = "### Confusion\n\nA row is the true class, a column the model's choice."
        return f"\n\n{head}\n\n" + table(["", *names], rows)
    wrong = counts * (1 - np.eye(len(names), dtype=int))
    worst = np.argsort(wrong, axis=None)[::-1][:10]
    pairs = [np.unravel_index(i, wrong.shape) for i in worst if wrong.flat[i]]
    rows = [[names[t], names[c], int(wrong[t, c])] for t, c in pairs]
    if not rows:
        return ""
    return "\n\n### Most frequent mistakes\n\n" + table(["true", "chosen", "test rows"], rows)


def _data(card: Mapping[str, Any], prepared: Any) -> str:
    splits = prepared.splits
    rows: list[list[Any]] = [["all", *(f"{count:,}" for count in prepared.counts.values())]]
    if prepared.class_names:
        counts = [
            class_counts(prepared.labels[c], len(prepared.class_names)) for c in splits.values()
        ]
        by_class = zip(prepared.class_names, *counts, strict=True)
        rows += [[name, *(f"{n:,}" for n in ns)] for name, *ns in by_class][:_MOST_CLASSES]
    text = table(["rows", *splits], rows)
    if len(prepared.class_names) > _MOST_CLASSES:
        text += f"\n\nThe first {_MOST_CLASSES} of {len(prepared.class_names)} classes."
    kinds = prepared.findings.kinds()
    found = ", ".join(f"{prepared.findings.count(kind):,} x {kind}" for kind in kinds)
    return text + f"\n\nFound in the data: {found or 'nothing wrong'}. See data_report.md."


def class_counts(labels: np.ndarray, k: int) -> list[int]:
    """How many rows have each of k classes."""
    if labels.ndim == 2:
        return labels.sum(axis=0).astype(int).tolist()
    return np.bincount(labels, minlength=k).tolist()


def made_again(card: Mapping[str, Any], config: FineTuneConfig) -> str:
    """How the same run is made once more."""
    file = shlex.quote(str(Path(card["workdir"]) / RECIPE))
    if config.data.path or config.data.tfds:
        return f"To make it again: `tf-finetune --config={file} --workdir=ANOTHER`."
    return f"To make it again: `fine_tune` with the settings in `{file}`, and the same data."


def _origin(card: Mapping[str, Any], config: FineTuneConfig) -> str:
    changed = differences(FineTuneConfig(), config)
    settings = "\n".join(changed) if changed else "all as the defaults"
    command = card.get("command") or "fine_tune() in Python"
    seconds = ", ".join(f"{key.replace('_', ' ')} {v:.0f}" for key, v in card["seconds"].items())
    versions = ", ".join(f"{name} {v}" for name, v in card["versions"].items())
    return (
        f"```\n{command}\n```\n\n{made_again(card, config)}\n\n"
        f"Settings that differ from the defaults (default -> here); all are in config.json:\n\n"
        f"```\n{settings}\n```\n\n"
        f"- Seconds: {seconds}.\n"
        f"- Computed in {card['precision']}, {input_size(card)}; "
        f"evaluated and saved in float32.\n"
        f"- Most memory: {card['peak_memory_bytes'] / 1e9:.2f} GB.\n"
        f"- Versions: {versions}.\n"
        f"- Data, digest: `{card['data_digest']}`."
    )
