"""Weights between those before and those after fine-tuning."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.fit_settings import FitConfig

POINTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclasses.dataclass(slots=True, kw_only=True)
class Interpolation:
    """What `interpolate` or `step_back` found.

    Attributes:
        share: of the fine-tuned weights in the chosen ones.
        sweep: for each share that was tried, descending, its score and, where asked for, what
            it retained; of `step_back` also its loss.
        floor_reached: by some point; if not, the chosen one retains most.
    """

    share: float
    sweep: list[dict[str, float]]
    floor_reached: bool = True


def interpolates(fit: FitConfig, phases: Sequence[Phase]) -> bool:
    """Whether a run goes back: where it tunes pretrained weights, and not by adapters."""
    trained = {phase.train for phase in phases}
    return fit.interpolate < 1 and bool(trained - {"head"}) and "lora" not in trained


def step_back(
    model: keras.Model,
    start: Sequence[np.ndarray],
    share: float,
    figures: Callable[[], dict[str, float]],
) -> Interpolation:
    """Gives a model `share` of its weights and of `start` the rest, unless its loss rises by that.

    A share that is chosen on few validation rows is chosen by chance, and one that is given
    is not: Wortsman et al. (2022, arXiv:2109.01903) give one where they have no rows to choose
    by.

    Args:
        model: as in `interpolate`.
        start: as in `interpolate`.
        share: of the fine-tuned weights, 0 to 1.
        figures: `score` and `loss` of the model now on validation data, and others that are to
            stand beside them.
    """
    end = model.get_weights()
    _check(start, end, [share], None, None)
    sweep = [{"share": 1.0, **figures()}]
    _set_between(model, start, end, share)
    sweep.append({"share": float(share), **figures()})
    if sweep[1]["loss"] <= sweep[0]["loss"]:
        return Interpolation(share=float(share), sweep=sweep)
    model.set_weights(end)
    return Interpolation(share=1.0, sweep=sweep)


def interpolate(
    model: keras.Model,
    start: Sequence[np.ndarray],
    score: Callable[[], float],
    *,
    points: Sequence[float] = POINTS,
    retained: Callable[[], float] | None = None,
    floor: float | None = None,
) -> Interpolation:
    """Brings a model's weights back towards `start`, as long as its score becomes no worse.

    Weights on the line between those before fine-tuning and those after it often keep more of
    what the pretrained model could do, and are no worse at the task (WiSE-FT, Wortsman et al.
    2022, arXiv:2109.01903). From the fine-tuned end on a point is taken that scores no worse than
    all before it, up to the first that does not: the best, and of equals the nearest to the
    start. What is not a floating-point number, and what a step changed that is none of the
    weights, stays.

    Args:
        model: with its fine-tuned weights; ends with the chosen ones.
        start: `model.get_weights()` from before.
        score: how good the model is now on validation data; the larger the better.
        points: shares of the fine-tuned weights to try.
        retained: how good it is now at what it is not to forget; then all points are tried.
        floor: the least that `retained` may be: the largest share that reaches it takes the
            place of the fine-tuned end. If it is less everywhere, the point that retains most
            is chosen.

    Raises:
        UserError: for shares outside of 0 to 1, a floor without `retained`, or other
            weights than the model's.
    """
    end = model.get_weights()
    _check(start, end, points, retained, floor)
    sweep: list[dict[str, float]] = []
    for share in sorted(points, reverse=True):
        _set_between(model, start, end, share)
        row = {"share": float(share), "score": float(score())}
        if retained:
            row["retained"] = float(retained())
        sweep.append(row)
        if not retained and row["score"] < max(before["score"] for before in sweep):
            break
    reached = [row for row in sweep if floor is None or row["retained"] >= floor]
    # Where none does, the training is not thrown away.
    most = max(row.get("retained", 0.0) for row in sweep)
    allowed = reached or [row for row in sweep if row["retained"] == most]
    no_worse = itertools.takewhile(
        lambda two: two[0]["score"] <= two[1]["score"], itertools.pairwise(allowed)
    )
    share = [allowed[0]["share"], *(row["share"] for _, row in no_worse)][-1]
    _set_between(model, start, end, share)
    return Interpolation(share=share, sweep=sweep, floor_reached=bool(reached))


def _set_between(
    model: keras.Model, start: Sequence[np.ndarray], end: Sequence[np.ndarray], share: float
) -> None:
    model.set_weights([_between(a, b, share) for a, b in zip(start, end, strict=True)])


def _between(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    if share == 1 or not np.issubdtype(end.dtype, np.floating):
        return end
    if share == 0:
        return start
    # What never moved stays as it is to the bit, a negative zero too.
    return np.where(start == end, end, start + share * (end - start))


def _check(
    start: Sequence[np.ndarray],
    end: Sequence[np.ndarray],
    points: Sequence[float],
    retained: Callable[[], float] | None,
    floor: float | None,
) -> None:
    if not points or not all(0 <= share <= 1 for share in points):
        raise UserError(f"points is {tuple(points)}; give shares from 0 to 1, at least one.")
    if floor is not None and retained is None:
        raise UserError("floor is set, but not retained; give a function that measures it.")
    if [a.shape for a in start] != [b.shape for b in end]:
        raise UserError(
            f"start holds {len(start)} arrays that are not of this model's {len(end)} shapes; give "
            "model.get_weights() from before it was fine-tuned."
        )
