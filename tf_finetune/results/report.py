"""The account of a run, for a reader who was not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.config import FineTuneConfig, differences
from tf_finetune.results import export_notes, retention
from tf_finetune.results.cautions import cautions
from tf_finetune.results.wording import (
    NAMES,
    decisive,
    difference,
    interval_of,
    short,
    table,
    value_of,
    with_interval,
)

# Beyond so many classes a table is no longer read; the rest is in metrics.json.
_MOST_CLASSES = 20
_BASELINES = {"probe": "head alone", "majority": "knows only the training labels"}


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
        f"# {config.model.preset}, fine-tuned for {_task(card['task'])}",
        _opening(card),
        "## On the test split",
        _figures(card),
        _classes(card),
        retention.section(card),
        "## To keep in mind",
        cautions(card),
        "## Data",
        _data(card, prepared),
        "## Training",
        _training(card, config),
        "## Use it",
        _usage(card, config),
        export_notes.section(card),
        "## How it was made",
        _origin(card, config),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def summary(card: Mapping[str, Any], workdir: Path) -> str:
    """A few lines for a terminal: figures beside baselines, and where things are."""
    name = decisive(card)
    lines = [f"test: {NAMES[name]} {with_interval(card['test'], name)}"]
    for key, scores in card["baselines"].items():
        lines.append(f"      {with_interval(scores, name)} {_BASELINES.get(key, key)}")
    if "retained" in card:
        lines.append("retained: " + retention.line(card))
    lines.append(f"report: {workdir / 'report.md'}; model: {workdir / 'model.keras'}")
    if card.get("export"):
        lines.append(f"export: {card['export']['path']}")
    return "\n".join(lines)


def _task(task: str) -> str:
    return {"multi_label": "multi-label classification"}.get(task, task)


def _opening(card: Mapping[str, Any]) -> str:
    test, name = card["test"], decisive(card)
    lines = [
        f"On {test['rows']:,} test rows, which took no part in training or in any choice, the "
        f"model's {NAMES[name]} is **{value_of(test, name)}** (95% interval "
        f"{interval_of(test, name)})."
    ]
    for key, scores in card["baselines"].items():
        what = {
            "majority": "A guess that knows only the training labels",
            "probe": "The same head trained alone on the untouched backbone",
        }.get(key, key)
        lines.append(f"{what} gets {value_of(scores, name)}.")
    if gain := card.get("gain_over_probe"):
        lines.append(_gain(gain))
    return "\n".join(lines)


def _gain(gain: Mapping[str, Any]) -> str:
    if gain["interval"][0] > 0:
        verdict = "more than chance explains"
    elif gain["interval"][1] < 0:
        verdict = "**worse** by more than chance explains: ship the head alone"
    else:
        verdict = "which may be chance"
    return (
        f"Beyond the head alone, fine-tuning the backbone changed this by {difference(gain)}, "
        f"{verdict}."
    )


def _figures(card: Mapping[str, Any]) -> str:
    columns = {"this model": card["test"]}
    columns |= {_BASELINES.get(k, k): scores for k, scores in card["baselines"].items()}
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
    text += table(["class", "precision", "recall", "F1", "test rows"], rows[:_MOST_CLASSES])
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
    rows: list[list[Any]] = [["all", *(f"{len(chosen):,}" for chosen in splits.values())]]
    if card["task"] != "regression":
        counts = [
            _class_counts(prepared.labels[c], len(prepared.class_names)) for c in splits.values()
        ]
        by_class = zip(prepared.class_names, *counts, strict=True)
        rows += [[name, *(f"{n:,}" for n in ns)] for name, *ns in by_class][:_MOST_CLASSES]
    text = table(["rows", *splits], rows)
    if len(prepared.class_names) > _MOST_CLASSES:
        text += f"\n\nThe first {_MOST_CLASSES} of {len(prepared.class_names)} classes."
    kinds = prepared.findings.kinds()
    found = ", ".join(f"{prepared.findings.count(kind):,} x {kind}" for kind in kinds)
    return text + f"\n\nFound in the data: {found or 'nothing wrong'}. See data_report.md."


def _class_counts(labels: np.ndarray, k: int) -> list[int]:
    if labels.ndim == 2:
        return labels.sum(axis=0).astype(int).tolist()
    return np.bincount(labels, minlength=k).tolist()


def _training(card: Mapping[str, Any], config: FineTuneConfig) -> str:
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
    text = table(head, rows)
    for p in phases:
        if seeds := p.get("seeds"):
            figures = ", ".join(
                "diverged" if figure is None else f"{figure:.4f}" for figure in seeds["figures"]
            )
            spread = seeds["spread"]
            beside = f", standard deviation {spread:.4f}" if spread is not None else ""
            text += (
                f"\n\nPhase {p['name']} was trained from {len(seeds['figures'])} initial heads: "
                f"{seeds['monitor']} {figures}{beside}. Head {seeds['chosen']} went on."
            )
    if line := card.get("interpolation"):
        scores = ", ".join(retention.point(row) for row in line["sweep"])
        text += (
            f"\n\nThe weights are {line['share']:.0%} of the way from those before tuning to "
            f"those after it, {_chosen(line, config)} ({scores})."
        )
    return text + "\n\n" + _history([row for p in phases for row in p["history"]])


def _chosen(line: Mapping[str, Any], config: FineTuneConfig) -> str:
    floor = config.fit.retained_floor
    if not line["floor_reached"]:
        return f"which retain most, though less than the floor of {floor:g}"
    among = f" among those with {floor:g} or better on the retained rows" if floor else ""
    return f"the best on validation{among}"


def _history(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    shown = [key for key in keys if key not in ("step", "examples_per_second")]
    return table(shown, [[short(row.get(key, "")) for key in shown] for row in rows])


def _usage(card: Mapping[str, Any], config: FineTuneConfig) -> str:
    export = card.get("export")
    run = Path(export["path"]).parents[2] if export else Path("WORKDIR")
    pair = bool(config.data.text_pair)
    sample = '(["a text"], ["its second text"])' if pair else '["a text", "another"]'
    text = (
        "Predict a file, or go on in Python:\n\n"
        "```\n"
        f"tf-finetune --mode=predict --workdir={run} --input=FILE --output=predictions.csv\n"
        "```\n\n"
        "```python\nimport tf_finetune\n\n"
        f'model = tf_finetune.load_model("{run}")\n'
        f"model.predict({sample})  # {_columns(card)}\n```\n"
    )
    if not export:
        why = (
            "`results.formats` does not name it"
            if card.get("exports")
            else ("`results.export` is off")
        )
        return text + f"\nNo SavedModel was written ({why})."
    inputs = 'text=tf.constant(["a text"])'
    inputs += ', text_pair=tf.constant(["its second text"])' if pair else ""
    return text + (
        f"\n`{export['path']}` ({export['bytes'] / 1e6:.1f} MB) takes strings and needs neither "
        "this package nor Keras. In a fresh process it gave the model's outputs within "
        f"{export['max_difference']:.1e} on {export['texts']} texts, among them empty, very long, "
        "emoji and non-Latin ones.\n\n"
        "```python\nimport tensorflow as tf\nimport tensorflow_text\n\n"
        f'served = tf.saved_model.load("{export["path"]}")\n'
        f'served.signatures["serving_default"]({inputs})\n```\n\n'
        f"The folder above it, `{Path(export['path']).parent}`, is laid out as TensorFlow Serving "
        "wants its `--model_base_path`."
    )


def _columns(card: Mapping[str, Any]) -> str:
    if card["task"] == "regression":
        return "one value a text"
    return "one column each: " + ", ".join(card["class_names"][:_MOST_CLASSES])


def _origin(card: Mapping[str, Any], config: FineTuneConfig) -> str:
    changed = differences(FineTuneConfig(), config)
    settings = "\n".join(changed) if changed else "all as the defaults"
    command = card.get("command") or "fine_tune() in Python"
    seconds = ", ".join(f"{key.replace('_', ' ')} {v:.0f}" for key, v in card["seconds"].items())
    versions = ", ".join(f"{name} {v}" for name, v in card["versions"].items())
    return (
        f"```\n{command}\n```\n\n"
        f"Settings that differ from the defaults (default -> here); all are in config.json:\n\n"
        f"```\n{settings}\n```\n\n"
        f"- Seconds: {seconds}.\n"
        f"- Computed in {card['precision']}, at most {card['sequence_length']} tokens a text; "
        f"evaluated and saved in float32.\n"
        f"- Most memory: {card['peak_memory_bytes'] / 1e9:.2f} GB.\n"
        f"- Versions: {versions}.\n"
        f"- Data, digest: `{card['data_digest']}`."
    )
