"""Plots as SVG that stands inside a page and takes the page's colours.

matplotlib draws them without a window or a font file; its colours are replaced by the
page's variables, so that one drawing serves light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from textwrap import fill
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What stands for a variable of the page while matplotlib draws.
_INK, _FIRST, _SECOND, _FAINT = "#010203", "#010204", "#010205", "#010206"
_LONGEST = 24
_VARIABLES = {_INK: "ink", _FIRST: "first", _SECOND: "second", _FAINT: "line"}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be read out and searched
    "svg.hashsalt": "tf_finetune",  # the same plot is the same file
    "text.parse_math": False,  # a name with a dollar sign is no formula
    "font.family": "sans-serif",
    "font.size": 9,  # of a width that a phone has nearly
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def intervals(rows: Sequence[tuple[str, float, float, float]], label: str) -> str:
    """One line a model: its figure as a dot, its interval as a bar.

    Args:
        rows: name, value, low and high of each.
        label: of the axis.
    """
    height = 0.8 + 0.35 * len(rows)
    with _drawing(height) as figure:
        axes = figure.add_subplot()
        for place, (_, value, low, high) in enumerate(rows):
            colour = _SECOND if place else _FIRST
            axes.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
            axes.plot([value], [place], "o", color=colour)
        axes.set_yticks(range(len(rows)), [fill(row[0], 18) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(label)
        said = "; ".join(f"{n} {v:.3g}, {low:.3g} to {high:.3g}" for n, v, low, high in rows)
        return _svg(figure, "intervals", f"{label} with 95% intervals: {said}")


def timeline(history: Sequence[Mapping[str, Any]]) -> str:
    """Loss above, rate below, over the epochs of all phases; empty if there are none.

    Args:
        history: rows of `metrics.jsonl`, in order.
    """
    if not history:
        return ""
    with _drawing(4.4) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        for name, begin, end in _stretches(history):
            x, rows = range(begin + 1, end + 1), history[begin:end]
            first = begin == 0
            for key, colour, line, what in (
                ("loss", _FIRST, "-", "training loss"),
                ("val_loss", _SECOND, "--", "validation loss"),
            ):
                values = [row.get(key, float("nan")) for row in rows]
                top.plot(x, values, line, marker=".", color=colour, label=what if first else None)
            rates = [row.get("learning_rate", float("nan")) for row in rows]
            bottom.plot(x, rates, "-", marker=".", color=_FIRST)
            for axes in (top, bottom):
                axes.axvline(begin + 0.5, color=_FAINT, linewidth=1.5)
            top.annotate(
                name, (begin + 0.6, 1.02), xycoords=("data", "axes fraction"), clip_on=False
            )
        top.set_ylabel("loss")
        top.legend()
        bottom.set_ylabel("rate at its end")
        bottom.set_xlabel("epoch, over all phases")
        bottom.set_xlim(0.5, len(history) + 0.5)
        bottom.xaxis.get_major_locator().set_params(integer=True)
        bottom.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        names = ", then ".join(f"{n} ({e - b} epochs)" for n, b, e in _stretches(history))
        said = f"Loss and learning rate by epoch, phases {names}; figures in the table below"
        return _svg(figure, "timeline", said)


def reliability(rows: Sequence[Mapping[str, Any]]) -> str:
    """How often choices were right, by how sure the model was of them.

    Args:
        rows: of `calibration.reliability`.
    """
    with _drawing(3.4) as figure:
        axes = figure.add_subplot()
        least = min([0.5, *(row["low"] for row in rows)])
        axes.plot([least, 1], [least, 1], "--", color=_INK, linewidth=1, label="as it should be")
        most = max(row["rows"] for row in rows)
        axes.scatter(
            [row["confidence"] for row in rows],
            [row["accuracy"] for row in rows],
            s=[20 + 180 * row["rows"] / most for row in rows],
            color=_FIRST,
            alpha=0.8,
            label="found; larger dots are more rows",
        )
        axes.set_xlabel("how sure the model was")
        axes.set_ylabel("share that was right")
        axes.legend()
        return _svg(figure, "reliability", "Reliability diagram; figures in the table below")


def coverage(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy by the share of rows that the model may keep.

    Args:
        rows: of `selective.selective`.
    """
    with _drawing(3.0) as figure:
        axes = figure.add_subplot()
        x = [100 * row["coverage"] for row in rows]
        low, high = ([100 * row["interval"][side] for row in rows] for side in (0, 1))
        axes.fill_between(x, low, high, color=_FIRST, alpha=0.25, label="95% interval")
        axes.plot(x, [100 * row["accuracy"] for row in rows], marker="o", color=_FIRST)
        axes.set_xlabel("percent of the rows that are kept, the surest first")
        axes.set_ylabel("percent right")
        axes.legend()
        return _svg(figure, "coverage", "Accuracy by coverage; figures in the table below")


def drift(rows: Sequence[Mapping[str, Any]]) -> str:
    """How far each block has moved.

    Args:
        rows: of `drift_by_block`.
    """
    with _drawing(0.8 + 0.22 * len(rows)) as figure:
        axes: Axes = figure.add_subplot()
        axes.barh(range(len(rows)), [100 * row["relative_l2"] for row in rows], color=_FIRST)
        axes.set_yticks(range(len(rows)), [_cut(row["block"]) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("change of the weights, in percent of their length")
        return _svg(figure, "drift", "Drift by block; figures in the table below")


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


def _stretches(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """Name, first row and end of each phase."""
    edges = [
        i for i, row in enumerate(history) if i == 0 or row["phase"] != history[i - 1]["phase"]
    ]
    ends = [*edges[1:], len(history)]
    return [(str(history[b]["phase"]), b, e) for b, e in zip(edges, ends, strict=True)]


class _drawing:
    """A figure of one width in the page's style."""

    def __init__(self, height: float) -> None:
        self._height = height

    def __enter__(self) -> Figure:
        import matplotlib
        from matplotlib.figure import Figure

        self._style = matplotlib.rc_context(_STYLE)
        self._style.__enter__()
        figure = Figure(figsize=(5.2, self._height), layout="constrained")
        figure.patch.set_alpha(0)
        return figure

    def __exit__(self, *error: object) -> None:
        self._style.__exit__(None, None, None)


def _svg(figure: Figure, name: str, said: str) -> str:
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Its one rule would hold for the whole page.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    # Names that hold for one drawing must not meet those of another.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view
    head = f'<svg {view[0]} role="img" aria-label="{escape(said)}" class="plot">'
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1)
