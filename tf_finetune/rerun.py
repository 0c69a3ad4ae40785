"""A finished run evaluated again: its card, or its model on other data."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tf_finetune.config import FineTuneConfig
from tf_finetune.data import labels as label_column
from tf_finetune.data.checks import place
from tf_finetune.data.content import scan, without_unusable
from tf_finetune.data.pictures.recognise import of_model
from tf_finetune.data.responses import lost, response_store
from tf_finetune.data.rows_file import taken
from tf_finetune.data.sources import read, unsplit
from tf_finetune.data.tags import ORPHAN, read_tags
from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.errors import UserError
from tf_finetune.exports.load import load_model
from tf_finetune.finished import rows_of_run
from tf_finetune.fit.feature_cache import surprise_of_responses
from tf_finetune.inputs.words import check_scorer
from tf_finetune.report import markdown
from tf_finetune.results import evaluate
from tf_finetune.results.response_scores import score_responses
from tf_finetune.results.tag_scores import score_tags
from tf_finetune.results.wording import NAMES, decisive, with_interval
from tf_finetune.settings import DataConfig
from tf_finetune.workdir import check_finished, read_card, read_config

_CHUNK = 2048


def evaluate_run(workdir: Path, path: str | None = None, data: DataConfig | None = None) -> str:
    """The card of a finished run, or the scores of its model on another file.

    The test split was used when the run ended and is not used again. Rows of the file
    whose text stands in the run's training or validation split are counted, and the
    others scored on their own too.

    Args:
        workdir: the run folder.
        path: labelled data.
        data: how to read it; None means as the run's own.

    Returns:
        Lines for people.

    Raises:
        UserError: if the run is not finished, or the data do not fit it.
    """
    check_finished(workdir)
    config = read_config(workdir)
    if path is None:
        return markdown.summary(read_card(workdir), workdir)
    model = load_model(workdir)
    kind = config.model.task
    data = of_model(unsplit(data or config.data, path), model)
    if kind == TOKENS:
        check_scorer()
        data.classes = tuple(name[2:] for name in model.class_names[1::2])
        return _evaluate_tags(Path(workdir), config, model, data)
    if kind == LANGUAGE:
        return _evaluate_responses(Path(workdir), config, model, data)
    data.classes = model.class_names
    with tempfile.TemporaryDirectory(prefix="tf_finetune-evaluate-") as scratch:
        table, labels, left_out = _labelled(data, kind, Path(scratch))
        seen = _seen(Path(workdir), table, Path(scratch))
        outputs = np.concatenate(
            [_predict(model, table.slice(i, _CHUNK)) for i in range(0, len(table), _CHUNK)]
        )
    how: Any = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}

    def score(rows: np.ndarray) -> dict[str, Any]:
        return evaluate.score(kind, outputs[rows], labels[rows], model.class_names, **how)

    return _account(path, kind, workdir, len(labels), seen, score, left_out)


def _evaluate_tags(workdir: Path, config: FineTuneConfig, model: Any, data: DataConfig) -> str:
    with tempfile.TemporaryDirectory(prefix="tf_finetune-evaluate-") as scratch:
        table, findings = read(data, TOKENS, Path(scratch))
        tags = read_tags(table, data, findings)
        findings.enforce(findings.kinds(), data.bad_rows, "bad_rows")
        rows = np.flatnonzero(tags.known)
        if not len(rows):
            raise UserError(f'"{data.path}" has no row to evaluate on ({findings.summary()}).')
        # With `warn` entities that nothing begins are kept.
        kinds = [k for k in findings.kinds() if (k, data.bad_rows) != (ORPHAN, "warn")]
        left_out = findings.summary(kinds) if kinds else ""
        table = taken(table, rows)
        seen, chosen, unseen = _seen(workdir, table, Path(scratch)), list[list[str]](), 0
        for start in range(0, len(table), _CHUNK):
            found = model.predict(table["words"].slice(start, _CHUNK).to_pylist())
            chosen += [one.tags for one in found]
            unseen += sum(one.unseen for one in found)
    truth = [[tags.names[code] for code in tags.of(row)] for row in rows.tolist()]
    how: Any = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}

    def score(rows: np.ndarray) -> dict[str, Any]:
        return score_tags([truth[i] for i in rows], [chosen[i] for i in rows], **how)

    return _account(
        data.path, TOKENS, workdir, len(rows), seen, score, left_out, unseen_words=unseen
    )


def _evaluate_responses(workdir: Path, config: FineTuneConfig, model: Any, data: DataConfig) -> str:
    with tempfile.TemporaryDirectory(prefix="tf_finetune-evaluate-") as scratch:
        table, _, left_out = _labelled(data, LANGUAGE, Path(scratch))
        seen, rows = _seen(workdir, table, Path(scratch)), np.arange(len(table))
        store = response_store(model.preprocessor, table, rows, Path(scratch), "")
        left_out = "; ".join(filter(None, (left_out, lost(store, rows))))
        counts = surprise_of_responses(model.network, store, rows, batch_size=config.fit.eval_batch)

    def score(rows: np.ndarray) -> dict[str, Any]:
        how = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}
        return score_responses(counts[rows], **how)

    return _account(data.path, LANGUAGE, workdir, len(table), seen, score, left_out)


def _account(
    path: str,
    kind: str,
    workdir: Path,
    count: int,
    seen: np.ndarray | None,
    score: Callable[[np.ndarray], dict[str, Any]],
    left_out: str,
    **facts: Any,
) -> str:
    """The scores of all rows of a file, and of those that the run has not seen, for people."""
    scores, lines = score(np.arange(count)) | facts, [f"{path}: {count:,} rows"]
    if left_out:
        lines.append(f"Left out: {left_out}.")
    if seen is None:
        gone = f"{workdir}/cache is gone, or pictures are"
        lines.append(f"Whether the run trained on some is unknown: {gone}.")
        seen = np.zeros(count, int)
    if judged := int((seen == 2).sum()):
        scores |= {"judged": judged}
        lines.append(
            f"{judged:,} of them stand in the run's test or retained rows, by which it was judged "
            "already: whatever is chosen by these figures has no test any more."
        )
    if (used := seen == 1).any():
        new = {} if used.all() else score(np.flatnonzero(~used))
        scores |= {"seen": int(used.sum()), "unseen": new}
        lines.append(_caution(kind, used, new))
    return "\n".join([*lines, json.dumps(scores, indent=2)])


def _labelled(data: DataConfig, kind: str, scratch: Path) -> tuple[pa.Table, np.ndarray, str]:
    """The rows that can be scored, their labels, and what was wrong with the others."""
    table, findings = read(data, kind, scratch)
    table = without_unusable(table, findings, scratch)
    names = () if kind in ("regression", LANGUAGE) else data.classes
    labels, known = label_column.encode(table, kind, names)
    for row in np.flatnonzero(~known).tolist():
        findings.add("unknown label", place(table, row), label_column.told(table, row))
    findings.enforce(findings.kinds(), data.bad_rows, "bad_rows")
    if not known.any():
        raise UserError(f'"{data.path}" has no row to evaluate on ({findings.summary()}).')
    left_out = findings.summary() if findings.kinds() else ""
    return taken(table, np.flatnonzero(known)), labels[known], left_out


def _seen(workdir: Path, table: pa.Table, scratch: Path) -> np.ndarray | None:
    """(n,) what the run did with rows of these texts; None if that is unknown.

    0 is nothing, 1 that it was trained or chosen on them, and 2 that it was judged by them.
    """
    kept = rows_of_run(workdir)
    if kept is None:
        return None
    rows, splits = kept
    # What was seen of the run's pictures is kept there.
    ours, held = scan(rows, workdir / "cache"), np.concatenate([*splits.values()])
    if not ours.unusable.keys().isdisjoint(held.tolist()):
        return None  # pictures that the run could read
    new = scan(table, scratch)
    keys, of_run = new.keys, ours.keys
    if new.unordered is not None and ours.unordered is not None:
        keys, of_run = new.unordered, ours.unordered
    # By retained rows a run is judged; it is chosen by them where there is a floor.
    floor = read_config(workdir).fit.retained_floor > 0
    judges = [name for name in splits if name == "test" or (name == "retained" and not floor)]
    used = np.concatenate([chosen for name, chosen in splits.items() if name not in judges])
    judged = np.isin(keys, of_run[np.concatenate([splits[name] for name in judges])])
    return np.where(np.isin(keys, of_run[used]), 1, 2 * judged)


def _caution(kind: str, seen: np.ndarray, new: dict[str, Any]) -> str:
    used = "stand in the data that the run trained or was chosen on"
    if not new:
        return f"All of them {used}: these figures say little about new texts."
    name = decisive({"task": kind})
    return (
        f"{seen.sum():,} of them {used}; on the other {(~seen).sum():,}: {NAMES[name]} "
        f"{with_interval(new, name)}"
    )


def _predict(model: Any, table: pa.Table) -> np.ndarray:
    names = [name for name in ("text", "text_pair", "image") if name in table.column_names]
    columns = [table[name].to_pylist() for name in names]
    return model.predict(columns[0] if len(columns) == 1 else tuple(columns))
