"""The data report: what a stranger should know about the rows before trusting a score."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tf_finetune.data.duplicates import Scan
from tf_finetune.data.findings import Findings, safe
from tf_finetune.data.labels import count_classes
from tf_finetune.settings import DataConfig

_MOST_CLASSES = 50


def write_report(
    *,
    what: str,
    splits: dict[str, np.ndarray],
    labels: np.ndarray,
    class_names: tuple[str, ...],
    scan: Scan,
    findings: Findings,
    how: str,
    notes: Sequence[str],
    targets: str = "Targets",
) -> str:
    """The data report as Markdown.

    Args:
        what: `text` or `picture`, which the rows hold.
        splits: the rows of each split.
        labels: of all rows; see `Prepared`.
        class_names: empty for regression.
        scan: sizes of all texts or pictures.
        findings: what was found wrong, and what was done about it.
        how: a sentence on how the splits came about.
        notes: further sentences for the reader.
        targets: what the labels are, where they are numbers.
    """
    total = sum(map(len, splits.values()))
    head = ", ".join(f"{len(rows):,} for {name}" for name, rows in splits.items())
    parts = [
        "# Data report",
        f"{total:,} rows are used: {head}. {how}",
        *notes,
        _labels(splits, labels, class_names, targets),
        _sizes(splits, scan, what),
        "## Findings",
        findings.to_markdown().strip(),
    ]
    return "\n\n".join(parts) + "\n"


def how_split(
    splits: dict[str, np.ndarray],
    made: dict[str, float],
    data: DataConfig,
    what: str,
    stratum: str,
) -> str:
    """How each split came about, in a sentence.

    Args:
        splits: the rows of each.
        made: the shares of those that were cut off here.
        data: with the seed.
        what: as in `write_report`.
        stratum: of what each split has its share.
    """
    if not made:
        return "The splits are those given."
    parts = [f"{share:g} for {split}" for split, share in made.items()]
    given = [s for s in splits if s not in ("train", *made) and len(splits[s])]
    return (
        f"Split here, {' and '.join(parts)}, by seed {data.seed}: each split has its share of "
        f"each {stratum}, and rows of equal or nearly equal {what}"
        + (f" or equal `{data.group}`" if data.group else "")
        + " stay together."
        + (f" Given: {', '.join(given)}." if given else "")
    )


def _labels(
    splits: dict[str, np.ndarray], labels: np.ndarray, names: tuple[str, ...], targets: str
) -> str:
    if not names:
        rows = [
            (split, f"{len(some):,}", *_figures(labels[some], ".4g"))
            for split, some in splits.items()
            if len(some)
        ]
        header = ("Split", "Rows", "Least", "Median", "90% are below", "Most")
        return f"## {targets}\n\n" + _table(header, rows)
    counts = {split: count_classes(labels[some], len(names)) for split, some in splits.items()}
    order = np.argsort(-counts["train"], kind="stable")[:_MOST_CLASSES]
    if len(names) <= _MOST_CLASSES:
        order = np.arange(len(names))
    rows = [
        (_cell(names[i]), *(_share(counts[s][i], len(some)) for s, some in splits.items()))
        for i in order.tolist()
    ]
    rows.append(("**rows**", *(f"**{len(some):,}**" for some in splits.values())))
    more = len(names) - len(order)
    cut = f"\n\nThe {more:,} classes with fewer training rows are not shown." if more else ""
    return "## Classes\n\n" + _table(("Class", *splits), rows) + cut


def _sizes(splits: dict[str, np.ndarray], scan: Scan, what: str) -> str:
    rows = [
        (split, unit, *_figures(sizes[some], ",.0f"))
        for split, some in splits.items()
        for unit, sizes in scan.sizes.items()
        if len(some)
    ]
    header = ("Split", "In", "Least", "Median", "90% are below", "Most")
    title = "Sizes of the pictures" if what == "picture" else "Lengths of the texts"
    return f"## {title}\n\n" + _table(header, rows)


def _figures(values: np.ndarray, form: str) -> tuple[str, ...]:
    return tuple(format(value, form) for value in np.quantile(values, (0, 0.5, 0.9, 1)))


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total else "0"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; columns of figures are set to the right."""
    rows = list(rows)
    figures = [all(row[i].strip("*")[:1].isdigit() for row in rows) for i in range(len(header))]
    marks = ["---", *("---:" if one else "---" for one in figures[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, marks, *rows))


def _cell(name: str) -> str:
    """The name as one table cell."""
    return safe(name if len(name) <= 60 else name[:59] + "…")
