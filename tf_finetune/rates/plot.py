"""A drawing of the loss by the learning rate: an SVG, for which no library is needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tf_finetune.rates.curve import RateCurve

Place = Callable[[float], float]
_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 420, 70, 50, 20, 50
_HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
    f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">'
    f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
)


def drawing(curve: RateCurve) -> str:
    """An SVG of a curve: the batches' losses as dots, the smoothed ones as a line."""
    decades = np.log10(curve.rates)
    low, high = _span(curve)

    def x(decade: float) -> float:
        share = (decade - decades[0]) / max(decades[-1] - decades[0], 1e-9)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(loss: float) -> float:
        share = (min(max(loss, low), high) - low) / (high - low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = [_HEAD, _text(_WIDTH / 2, 24, curve.summary(), "middle")]
    parts += _axes(x, y, decades, low, high)
    parts += [
        f'<circle cx="{x(d)}" cy="{y(loss)}" r="2" fill="#bbb"/>'
        for d, loss in zip(decades, curve.raw, strict=True)
        if low <= loss <= high
    ]
    line = " ".join(
        f"{x(d)},{y(loss)}"
        for d, loss in zip(decades, curve.losses, strict=True)
        if math.isfinite(loss)
    )
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="2"/>')
    marks = {"suggestion": curve.suggestion, "steepest": curve.steepest}
    for place, (name, rate) in enumerate(marks.items()):
        if rate is not None:
            at, below = x(math.log10(rate)), _TOP + 14 * (place + 1)
            parts.append(_rule(at, _TOP, at, _HEIGHT - _BOTTOM, "#c0392b"))
            parts.append(_text(at + 4, below, f"{name} {rate:.1e}", "start"))
    return "\n".join([*parts, "</svg>\n"])


def _span(curve: RateCurve) -> tuple[float, float]:
    """Lowest and highest loss that are shown: where it blows up it leaves the picture."""
    losses = np.array([loss for loss in curve.losses if math.isfinite(loss)] or [0.0])
    low = float(losses.min())
    fall = float(np.max(losses[: int(losses.argmin()) + 1])) - low
    high = low + max(2.5 * fall, 1e-3 * abs(low), 1e-9)
    return low - 0.1 * (high - low), high


def _axes(x: Place, y: Place, decades: np.ndarray, low: float, high: float) -> list[str]:
    parts = [
        _text(_WIDTH / 2, _HEIGHT - 12, "learning rate", "middle"),
        _text(_LEFT, _TOP - 8, "loss", "end"),
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT - _RIGHT}" '
        f'height="{_HEIGHT - _TOP - _BOTTOM}" fill="none" stroke="#444"/>',
    ]
    for decade in range(math.ceil(decades[0] - 1e-9), math.floor(decades[-1] + 1e-9) + 1):
        parts.append(_rule(x(decade), _TOP, x(decade), _HEIGHT - _BOTTOM, "#eee"))
        parts.append(_text(x(decade), _HEIGHT - _BOTTOM + 16, f"1e{decade}", "middle"))
    for loss in np.linspace(low, high, 6)[1:-1]:
        parts.append(_rule(_LEFT, y(loss), _WIDTH - _RIGHT, y(loss), "#eee"))
        parts.append(_text(_LEFT - 6, y(loss) + 4, f"{loss:.3g}", "end"))
    return parts


def _rule(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'
