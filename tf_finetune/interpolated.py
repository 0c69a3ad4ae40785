"""Weights on the way back from those after tuning to those before it, and what they retain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tf_finetune.assemble import Setup
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.pipeline import evaluation_dataset
from tf_finetune.data_checks import LANGUAGE
from tf_finetune.fit import precision
from tf_finetune.fit.examples import Examples, validation_figures
from tf_finetune.fit.held_out import Scores, activated, held_out
from tf_finetune.fit.interpolation import Interpolation, interpolate, step_back
from tf_finetune.fit.objective import objective_of
from tf_finetune.results.retention import FLOOR_MISSED, point


def interpolate_run(
    setup: Setup,
    config: FineTuneConfig,
    before: Sequence[np.ndarray],
    say: Callable[[str], None],
) -> Interpolation:
    """Brings the network's weights back towards those before tuning, as `config` says."""
    network, splits, fit = setup.task.network, setup.prepared.splits, config.fit
    objective = objective_of(setup.task, fit.label_smoothing)
    if not network.compiled:  # its phases have ended in a process before this one
        network.compile(
            loss=objective.loss,
            loss_weights=objective.loss_weights,
            metrics=objective.metrics,
            steps_per_execution=fit.steps_per_execution,
            jit_compile=False,
        )
    floor, sign = fit.retained_floor, 1 if objective.mode == "max" else -1

    def figures_on(split: str) -> Callable[[], dict[str, float]]:
        store, labels = setup.store, setup.labels
        rows = evaluation_dataset(store, labels, splits[split], batch_size=fit.eval_batch)
        examples = Examples(train={}, steps=0, size=0, validation=rows)

        def figures() -> dict[str, float]:
            found = validation_figures(network, examples)
            return {"score": sign * found[objective.monitor], "loss": found["val_loss"]}

        return figures

    validated = figures_on("validation")
    retained = figures_on("retained") if "retained" in splits else None
    if fit.interpolate:

        def figures() -> dict[str, float]:
            return validated() | ({"retained": retained()["score"]} if retained else {})

        found = step_back(network, before, fit.interpolate, figures)
    else:
        found = interpolate(
            network,
            before,
            lambda: validated()["score"],
            retained=(lambda: retained()["score"]) if retained else None,
            # A little lower: Keras gives figures in float32, where 0.7 is less than 0.7.
            floor=sign * floor - 1e-6 * max(1.0, floor) if floor else None,
        )
    say(_line(found))
    if not found.floor_reached:
        say(FLOOR_MISSED)
    return found


def untuned_scores(setup: Setup, config: FineTuneConfig) -> Scores:
    """What the network, as it is, gives for the rows that tell what tuning changed.

    They are the retained ones, and for a language model, which can respond before, the test
    rows. None where there are no such rows.
    """
    names = ["test"] if setup.task.kind == LANGUAGE else ["retained"]
    rows = {name: one for name, one in setup.prepared.splits.items() if name in names}
    if not rows:
        return {}
    # As the model is judged after it.
    with precision.computing_in("float32", setup.task.backbone), precision.whole_float32():
        logits = held_out(setup.task.network, setup.store, rows, config.fit.eval_batch)
    return activated(setup.task.kind, logits)


def _line(found: Interpolation) -> str:
    points = ", ".join(map(point, found.sweep))
    return (
        f"interpolation: the weights are {found.share:.0%} of the way from those before tuning to "
        f"those after it ({points})"
    )
