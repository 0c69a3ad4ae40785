"""The weights between those before tuning and those after it, and what each end retains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from tf_finetune.assemble import Setup
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.pipeline import Store
from tf_finetune.errors import UserError
from tf_finetune.fit.examples import examples_of_rows, validation_figures
from tf_finetune.fit.held_out import Scores, activated, held_out
from tf_finetune.fit.interpolation import Interpolation, interpolate
from tf_finetune.fit.objective import objective_of
from tf_finetune.results.retention import point


def interpolate_run(
    setup: Setup,
    config: FineTuneConfig,
    before: Sequence[np.ndarray],
    say: Callable[[str], None],
) -> Interpolation:
    """Gives the network the best weights between those before tuning and its own.

    Raises:
        UserError: if no point keeps what `config.fit.retained_floor` asks for.
    """
    network, splits, fit = setup.task.network, setup.prepared.splits, config.fit
    objective = objective_of(setup.task, fit.label_smoothing)
    floor, sign = fit.retained_floor, 1 if objective.mode == "max" else -1

    def figure_on(split: str) -> Callable[[], float]:
        rows = (splits["train"], splits[split])
        examples = examples_of_rows(cast(Store, setup.tokens), setup.prepared.labels, *rows, fit)
        return lambda: sign * validation_figures(network, examples)[objective.monitor]

    kept: list[float] = []

    def retained() -> float:
        kept.append(figure_on("retained")())
        return kept[-1]

    try:
        found = interpolate(
            network,
            before,
            figure_on("validation"),
            retained=retained if "retained" in splits else None,
            # A little lower: Keras gives figures in float32, where 0.7 is less than 0.7.
            floor=sign * floor - 1e-6 * max(1.0, floor) if floor else None,
        )
    except UserError:
        what = objective.monitor.removeprefix("val_")
        raise UserError(
            f"config.fit.retained_floor is {floor:g}, but of {len(kept)} points from "
            "the weights before tuning to those after it the best has a retained "
            f"{what} of {abs(max(kept)):.4g}. Choose another floor, or tune less: fewer epochs, a "
            "lower rate, l2_sp. The tuned weights are in the run folder, under checkpoints."
        ) from None
    say(_line(found))
    return found


def retained_scores(setup: Setup, config: FineTuneConfig) -> Scores:
    """What the network, as it is, gives for the retained rows."""
    rows = {"retained": setup.prepared.splits["retained"]}
    logits = held_out(setup.task.network, setup.tokens, rows, config.fit.eval_batch)
    return activated(setup.task.kind, logits)


def _line(found: Interpolation) -> str:
    best = f"interpolation: {found.share:.0%} of the way from the start to the tuned weights"
    points = f" ({', '.join(map(point, found.sweep))})" if "retained" in found.sweep[0] else ""
    return f"{best} is best{points}"
