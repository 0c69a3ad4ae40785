"""The loss by the learning rate, and what it suggests."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tf_finetune.errors import UserError
from tf_finetune.whole import written_whole

# How much of the smoothed loss is the one before, how far it may rise above its lowest,
# and what is cut off before suggestions are read; but for the first as in fastai, whose
# 0.98 makes up for noise that is not there.
_SMOOTH = 0.9
_RISE = 3.0
_FIRST_SHARE, _LAST = 0.1, 5
# The mean of so many losses in a row is compared with all before; a fall by fewer
# standard errors than these, or by a smaller share of the loss, is noise.
_WINDOW, _ERRORS, _LEAST_FALL = 10, 4.0, 1e-3


@dataclasses.dataclass(slots=True, kw_only=True)
class RateCurve:
    """What `find_learning_rate` gives back.

    Attributes:
        rates: of the steps that were made.
        raw: the loss of each step before its update, less what its batch had above others.
        losses: these smoothed.
        suggestion: a rate to train with, the `valley`; None where the loss did not fall.
        steepest: where the loss falls most; None likewise.
        minimum_over_10: a tenth of the rate with the lowest loss; None likewise.
        diverged_at: the rate that ended the search; None if the loss did not blow up.
    """

    rates: list[float]
    raw: list[float]
    losses: list[float]
    suggestion: float | None = None
    steepest: float | None = None
    minimum_over_10: float | None = None
    diverged_at: float | None = None

    def summary(self) -> str:
        """One line for people."""
        end = f"diverged at {self.diverged_at:.1e}" if self.diverged_at else "it did not diverge"
        if self.suggestion is None:
            low, high = self.rates[0], self.rates[-1]
            return (
                f"learning rate: no suggestion, for the loss did not fall anywhere from {low:.1e} "
                f"to {high:.1e}; {end}"
            )
        return (
            f"learning rate: suggestion {self.suggestion:.1e} (valley), the steepest at "
            f"{self.steepest:.1e}, a tenth of the minimum's is {self.minimum_over_10:.1e}; {end}"
        )

    def table(self) -> str:
        """About a dozen lines of rates and smoothed losses, with bars."""
        low, high = min(self.losses), max(self.losses[:1] + self.losses[_skipped(self.rates) :])
        rows = [f"{'rate':>9}{'loss':>10}"]
        for i in range(0, len(self.rates), max(1, len(self.rates) // 12)):
            share = (self.losses[i] - low) / (high - low) if high > low else 0.0
            bar = "#" * round(40 * min(share, 1.0))
            rows.append(f"{self.rates[i]:>9.1e}{self.losses[i]:>10.4f}  {bar}".rstrip())
        return "\n".join(rows)

    def plot(self, file: str | os.PathLike[str]) -> None:
        """Draws the losses by the rate's logarithm, with the suggestion.

        Args:
            file: to write, an SVG, which every browser shows.

        Raises:
            UserError: for another ending, or a folder that is not there.
        """
        from tf_finetune.rates.plot import drawing

        path = Path(file)
        check_plot(path)
        with written_whole(path) as temporary:
            temporary.write_text(drawing(self), encoding="utf-8")


def check_plot(path: Path, name: str = "file") -> None:
    """Raises `UserError` where no plot can be written."""
    if path.suffix.lower() != ".svg":
        raise UserError(f'{name} is "{path}"; the plot is an SVG: let its name end in .svg.')
    if not path.parent.is_dir():
        raise UserError(f'{name} is "{path}", but there is no folder "{path.parent}"; make it.')


def curve_of(rates: Sequence[float], raw: Sequence[float]) -> RateCurve:
    """Smooths the losses and reads the suggestions.

    They are looked for where the first tenth and the last five steps are cut off, as in
    fastai: the steepest place; a tenth of the lowest place's rate; and the valley, where
    the longest fall has come half of its way down. fastai takes the half of its steps,
    which a long flat stretch with a little noise before it moves far to the left.

    Args:
        rates: all that were to be tried.
        raw: the losses of those that were; `diverged` ended them where they are fewer.
    """
    losses = smoothed(raw)
    blown = diverged(raw)
    curve = RateCurve(
        rates=[float(rate) for rate in rates[: len(raw)]],
        raw=[float(loss) for loss in raw],
        losses=losses,
        diverged_at=float(rates[len(raw) - 1]) if blown else None,
    )
    skipped = _skipped(rates)
    if len(raw) <= skipped + _LAST or not _falls(raw):
        return curve
    falling = np.array(losses[skipped:-_LAST])
    # What comes after the lowest place is of no use to anyone.
    falling = falling[: int(falling.argmin()) + 1]
    start, end = longest_fall(falling.tolist())
    half = (falling[start] + falling[end]) / 2
    middle = start + int(np.flatnonzero(falling[start : end + 1] >= half)[-1])
    curve.suggestion = curve.rates[skipped + middle]
    # Rates are evenly spaced by their logarithm.
    steepest = int(np.diff(falling).argmin()) if len(falling) > 1 else 0
    curve.steepest = curve.rates[skipped + steepest]
    curve.minimum_over_10 = curve.rates[skipped + len(falling) - 1] / 10
    return curve


def smoothed(raw: Sequence[float]) -> list[float]:
    """The running mean that forgets: each loss counts 0.9 of the one after it."""
    mean, found = 0.0, []
    for count, loss in enumerate(raw, 1):
        mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
        found.append(float(mean / (1 - _SMOOTH**count)))
    return found


def diverged(raw: Sequence[float]) -> bool:
    """Whether the last loss is no number, or its smoothed curve is far above its lowest.

    fastai stops at four times the lowest. A loss that can be negative, or comes down to
    nearly nothing, is measured by how far it has fallen.
    """
    if not math.isfinite(raw[-1]):
        return True
    losses = smoothed(raw)
    lowest = min(losses)
    return losses[-1] > lowest + _RISE * max(abs(lowest), losses[0] - lowest)


def longest_fall(losses: Sequence[float]) -> tuple[int, int]:
    """First and last place of the longest falling subsequence; it begins as late as it can."""
    least = 1e-6 * max(map(abs, losses))  # what rounding may do on a flat stretch
    lengths, before = [1] * len(losses), list(range(len(losses)))
    for i in range(len(losses)):
        for j in range(i):
            if losses[i] < losses[j] - least and lengths[j] + 1 >= lengths[i]:
                lengths[i], before[i] = lengths[j] + 1, j
    end = start = int(np.argmax(lengths))
    while before[start] != start:
        start = before[start]
    return start, end


def _falls(raw: Sequence[float]) -> bool:
    """Whether the losses fall by more than those of neighbouring batches differ."""
    means = np.convolve(raw, np.full(_WINDOW, 1 / _WINDOW), mode="valid")
    if not np.isfinite(means[_WINDOW:]).any():
        return False
    lowest = _WINDOW + int(np.nanargmin(means[_WINDOW:]))
    before = np.asarray(raw[:lowest])
    # Differences of neighbours, for a trend is no noise.
    error = np.sqrt(np.mean(np.diff(before) ** 2) / 2 * (1 / _WINDOW + 1 / lowest))
    least = max(_ERRORS * error, _LEAST_FALL * abs(before.mean()))
    return bool(before.mean() - means[lowest] > least)


def _skipped(rates: Sequence[float]) -> int:
    return int(_FIRST_SHARE * len(rates))
