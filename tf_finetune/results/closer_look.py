"""What the card says beyond figures: parts of the rows, mistakes, labels, drift."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.assemble import Setup
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.checks import place
from tf_finetune.data.rows_file import taken
from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.fit import precision
from tf_finetune.fit.feature_cache import outputs_of
from tf_finetune.model.headed import HeadedTask
from tf_finetune.results import calibration, frozen_features, tested
from tf_finetune.results.drifted import drift_by_block
from tf_finetune.results.judgement import Judgement
from tf_finetune.results.label_audit import METHOD, LabelAudit, audit_labels
from tf_finetune.results.mistakes import MOST_MISTAKES, MOST_TEXT, nearest, worst
from tf_finetune.results.response_judgement import look_at_responses
from tf_finetune.results.selective import selective
from tf_finetune.results.slices import by_slice, length_buckets
from tf_finetune.results.tag_judgement import look_at_tags
from tf_finetune.results.wording import shortened
from tf_finetune.whole import written_whole

LABELS = "label_audit.csv"
_NEIGHBOURS, _SUSPECTS = 3, 15
_MOST_FILES = 20
Features = dict[str, tuple[np.ndarray, np.ndarray]]


def look_closer(
    setup: Setup, task: HeadedTask, config: FineTuneConfig, judgement: Judgement, run: Path
) -> dict[str, Any]:
    """More entries for the card.

    Writes into the run folder what the model gave for each test row, and the order of
    suspected labels, which neither taggers nor language models have.

    Args:
        setup: of the run.
        task: that is shipped.
        config: of the run.
        judgement: of that task.
        run: the folder.
    """
    tunes = any(phase.train != "head" for phase in setup.phases)
    if task.kind == TOKENS:
        found, counts = look_at_tags(setup, config, judgement.outputs, _slices(setup, config))
        # Of each row the entities that are there stand for its labels.
        _keep(setup, run, counts[:, 1], counts)
    elif task.kind == LANGUAGE:
        outputs = judgement.outputs
        found = look_at_responses(setup, task, config, outputs, _slices(setup, config))
        _keep(setup, run, outputs["test"][:, 2], outputs["test"])
    else:
        found = _look_at_rows(setup, task, config, judgement, run, tunes=tunes)
    if config.results.drift and tunes and task.kind != LANGUAGE:
        held_out = setup.prepared.splits["validation"]
        found["drift"] = drift_by_block(
            config.model.preset,
            task.backbone,
            setup.store,
            held_out,
            config.fit.eval_batch,
            task.get_layer("scaling") if task.column == "image" else None,
        )
    return found


def _look_at_rows(
    setup: Setup,
    task: HeadedTask,
    config: FineTuneConfig,
    judgement: Judgement,
    run: Path,
    *,
    tunes: bool,
) -> dict[str, Any]:
    outputs, labels = judgement.outputs["test"], judgement.labels["test"]
    _keep(setup, run, labels, outputs)
    how: Any = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}
    features = frozen_features.kept(run / "cache")
    found: dict[str, Any] = {
        "slices": by_slice(task.kind, outputs, labels, _slices(setup, config), **how),
        "mistakes": _mistakes(setup, task, judgement, features),
    }
    if task.kind != "regression":
        found["selective"] = selective(task.kind, outputs, labels)
    if task.kind == "classification" and features and config.results.label_audit:
        rows, vectors = features["train"]
        # A row alone of its class can be compared with none.
        labels = setup.prepared.labels[rows]
        compared = np.bincount(labels)[labels] > 1
        rows, vectors = rows[compared], vectors[compared]
        tuned = _probabilities(setup, task, config, rows) if tunes else None
        audit = audit_labels(vectors, setup.prepared.labels[rows], config.data.seed, tuned)
        if audit:
            found["label_audit"] = _labels(setup, task, rows, audit, run)
    return found


def _keep(setup: Setup, run: Path, labels: np.ndarray, outputs: np.ndarray) -> None:
    """Keeps of each test row what runs are compared by."""
    table, rows = setup.prepared.table, setup.prepared.splits["test"]
    tested.write(run, table, rows, labels, outputs, seen=run / "cache")


def _probabilities(
    setup: Setup, task: HeadedTask, config: FineTuneConfig, rows: np.ndarray
) -> np.ndarray:
    # They order rows and are shown nowhere: as the run computed is exact enough.
    with precision.computing_in(setup.precision, task.backbone):
        logits = outputs_of(task.network, setup.store, rows, batch_size=config.fit.eval_batch)
    return calibration.probabilities(task.kind, logits, task.temperature)


def _slices(setup: Setup, config: FineTuneConfig) -> dict[str, np.ndarray]:
    rows, table = setup.prepared.splits["test"], setup.prepared.table
    found = {}
    if setup.task.column in ("text", "words"):
        found["length in tokens"] = length_buckets(setup.store.lengths[rows])
    for role in ("slice", "group"):
        if role in table.column_names:
            found[getattr(config.data, role)] = _column(setup, role, rows)
    files = _column(setup, "file", rows)
    if 1 < len(np.unique(files)) <= _MOST_FILES:
        found["file"] = files
    return found


def _column(setup: Setup, name: str, rows: np.ndarray) -> np.ndarray:
    column = taken(setup.prepared.table.select([name]), rows)[name]
    return np.array(column.to_pylist(), dtype=object).astype(str)


def _mistakes(
    setup: Setup, task: HeadedTask, judgement: Judgement, features: Features
) -> list[dict[str, Any]]:
    outputs, labels = judgement.outputs["test"], judgement.labels["test"]
    rows, found = setup.prepared.splits["test"], []
    bad = worst(task.kind, outputs, labels, MOST_MISTAKES)
    alike = _neighbours(setup, task, [int(rows[position]) for position, _ in bad], features)
    for position, badness in bad:
        row = int(rows[position])
        mistake = _told(setup, task, row) | {"badness": badness}
        mistake["chosen"] = _named(task, outputs[position], chosen=True)
        mistake["neighbours"] = alike.get(row, [])
        found.append(mistake)
    return found


def _neighbours(
    setup: Setup, task: HeadedTask, asked: list[int], features: Features
) -> dict[int, list[dict[str, Any]]]:
    """By test row the training rows most like it, of those whose features were kept."""
    known = [row for row in asked if row in features["test"][0]] if features else []
    if not known:
        return {}
    rows, vectors = features["test"]
    queries = vectors[np.searchsorted(rows, known)]
    places, alike = nearest(queries, features["train"][1], _NEIGHBOURS)
    return {
        row: [
            _told(setup, task, int(features["train"][0][i])) | {"similarity": float(similarity)}
            for i, similarity in zip(near, similar, strict=True)
        ]
        for row, near, similar in zip(known, places, alike, strict=True)
    }


def _labels(
    setup: Setup, task: HeadedTask, rows: np.ndarray, audit: LabelAudit, run: Path
) -> dict[str, Any]:
    names, given = task.class_names, setup.prepared.labels[rows]
    with (
        written_whole(run / LABELS) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["file", "row", "label", "likely", "quality", "suspected"])
        for i in audit.order:
            where, _, line = place(setup.prepared.table, int(rows[i])).rpartition(":")
            likely, suspected = names[audit.likely[i]], int(audit.suspected[i])
            fit = f"{audit.quality[i]:.4f}"
            writer.writerow([where, line, names[given[i]], likely, fit, suspected])
    shown = [i for i in audit.order if audit.suspected[i]][:_SUSPECTS]
    return {
        "method": METHOD,
        "rows": len(rows),
        "suspected": int(audit.suspected.sum()),
        "probe_accuracy": audit.accuracy,
        "first": [
            _told(setup, task, int(rows[i]))
            | {"likely": names[audit.likely[i]], "quality": float(audit.quality[i])}
            for i in shown
        ],
    }


def _told(setup: Setup, task: HeadedTask, row: int) -> dict[str, Any]:
    """Where a row stands, its texts, cut where they are long, or its picture, and its label."""
    table = setup.prepared.table
    names = [name for name in ("text", "text_pair", "image") if name in table.column_names]
    texts = [table[name][row].as_py() for name in names]
    return {
        "place": place(setup.prepared.table, row),
        "table_row": row,
        "texts": [shortened(text, MOST_TEXT) for text in texts],
        "label": _named(task, setup.prepared.labels[row]),
    }


def _named(task: HeadedTask, value: Any, *, chosen: bool = False) -> str:
    """A label or, where `chosen`, a model's outputs, in words."""
    if task.kind == "regression":
        return f"{float(np.ravel(value)[0]):.4g}"
    if task.kind == "multi_label":
        names = [name for name, on in zip(task.class_names, value, strict=True) if on >= 0.5]
        return ", ".join(names) or "(none)"
    return task.class_names[int(np.argmax(value) if chosen else value)]
