"""Runs beside each other: configuration, data, and results with their significance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.config import FineTuneConfig, differences
from tf_finetune.data_checks import LANGUAGE
from tf_finetune.errors import UserError
from tf_finetune.results.gains import gain, goodness
from tf_finetune.results.paired import holm, mcnemar
from tf_finetune.results.tested import Tested, read
from tf_finetune.results.wording import NAMES, decisive, difference, shortened, table, with_interval
from tf_finetune.workdir import check_finished, read_card, read_config


@dataclasses.dataclass(slots=True, kw_only=True)
class Run:
    """A finished run, as its folder tells it."""

    folder: Path
    config: FineTuneConfig
    card: dict[str, Any]
    tested: Tested


def compare(folders: Sequence[Path]) -> str:
    """Compares finished runs with the first of them, on the same test rows.

    Args:
        folders: two run folders or more.

    Returns:
        Markdown.

    Raises:
        UserError: if a folder holds no finished run, or the runs were not tested on the
            same rows, of one task.
    """
    if len(folders) < 2:
        raise UserError("two run folders or more are needed: --mode=compare runs/a runs/b")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run folder is named twice; name each once.")
    runs = [read_run(folder) for folder in folders]
    for run in runs[1:]:
        check_comparable(runs[0], run)
    parts = ["# Runs compared", "## Results", _results(runs), _significance(runs)]
    parts += ["## Configuration", *(_configuration(runs[0], run) for run in runs[1:])]
    parts += ["## Data", *(_data(runs[0], run) for run in runs[1:])]
    return "\n\n".join(parts)


def read_run(folder: Path) -> Run:
    """A finished run, its test rows in the order of their keys.

    Raises:
        UserError: if the folder holds none.
    """
    check_finished(folder)
    return Run(
        folder=folder,
        config=read_config(folder),
        card=read_card(folder),
        tested=read(folder).in_order_of_keys(),
    )


def check_comparable(first: Run, other: Run) -> None:
    """Raises `UserError` unless both were tested on the same rows, of one task."""
    names = f'"{first.folder}" and "{other.folder}"'
    for key, what in (("task", "tasks"), ("class_names", "classes")):
        one, two = first.card[key], other.card[key]
        if one != two:
            raise UserError(f"{names} are of different {what}: {_short(one)} and {_short(two)}.")
    a, b = first.tested, other.tested
    if not np.array_equal(a.keys, b.keys):
        same = len(np.intersect1d(a.keys, b.keys))
        raise UserError(
            f"{names} were tested on different rows ({len(a.keys):,} and {len(b.keys):,}, of which "
            f"{same:,} are the same), so that their figures cannot be compared. Train with the "
            "same data and config.data.test and seed, or score both on one file with "
            "--mode=evaluate --input=FILE."
        )
    differ = int(np.sum(np.any((a.labels != b.labels).reshape(len(a.labels), -1), axis=1)))
    if differ and first.card["task"] == LANGUAGE:
        raise UserError(
            f"{names} cut {differ:,} of {len(a.keys):,} responses into other tokens, so that their "
            "perplexities cannot be compared. Compare models of one tokenizer."
        )
    if differ:
        raise UserError(
            f"{names} were tested on the same texts, but {differ:,} of {len(a.keys):,} have other "
            "labels. Train both on the same file."
        )


def _results(runs: Sequence[Run]) -> str:
    name = decisive(runs[0].card)
    rows = []
    for run in runs:
        card = run.card
        off = card.get("calibration")
        rows.append(
            [
                run.folder,
                with_interval(card["test"], name),
                f"{off['after']['ece']:.3f}" if off else "",
                f"{card['train_seconds']:.0f}",
                f"{card['peak_memory_bytes'] / 1e9:.2f}",
            ]
        )
    head = ["run", NAMES[name], "calibration error", "seconds of training", "GB of memory"]
    return f"On the same {len(runs[0].tested.keys):,} test rows:\n\n" + table(head, rows)


def _significance(runs: Sequence[Run]) -> str:
    """Each run against the first, the p-values mended for how many there are."""
    task, first = runs[0].card["task"], runs[0]
    found = [goodness(task, r.tested.outputs, r.tested.labels) for r in runs]
    right = [one for one in found if one is not None]  # none, or of each run
    tests = [mcnemar(one, right[0]) for one in right[1:]]
    corrected = holm([test["p"] for test in tests])
    lines = []
    for place, run in enumerate(runs[1:]):
        how: Any = {"bootstrap": run.config.results.bootstrap, "seed": run.config.data.seed}
        outputs = run.tested.outputs, first.tested.outputs
        ahead = gain(task, *outputs, first.tested.labels, **how)
        line = f"- `{run.folder}` beside `{first.folder}`: {difference(ahead)}"
        if tests:
            test, p = tests[place], corrected[place]
            verdict = "more than chance explains" if p < 0.05 else "which may be chance"
            line += (
                f"; {test['only_first']:,} rows it alone has right, {test['only_second']:,} the "
                f"other: McNemar's exact p = {test['p']:.2g}"
                + (f", {p:.2g} for {len(tests)} comparisons (Holm)" if len(tests) > 1 else "")
                + f", {verdict}"
            )
        elif ahead["interval"][0] > 0 or ahead["interval"][1] < 0:
            line += ", more than chance explains"
        else:
            line += ", which may be chance"
        lines.append(line + ".")
    return "\n".join(lines)


def _configuration(first: Run, run: Run) -> str:
    changed = differences(first.config, run.config)
    text = "\n".join(changed) if changed else "no difference"
    return f"`{first.folder}` -> `{run.folder}`:\n\n```\n{text}\n```"


def _data(first: Run, run: Run) -> str:
    if first.card["data_digest"] == run.card["data_digest"]:
        return f"`{run.folder}`: the same rows in the same splits as `{first.folder}`."
    return (
        f"`{run.folder}`: the same test rows as `{first.folder}`, but other data besides: rows, "
        "labels or splits for training or validation, or retained rows."
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else ", ".join(value)
    return shortened(text, 80)
