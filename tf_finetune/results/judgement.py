"""What a run's model is worth: its card, from the test split used once."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tf_finetune.assemble import Setup
from tf_finetune.config import FineTuneConfig
from tf_finetune.fit.held_out import Scores, activated, held_out
from tf_finetune.results import calibration, evaluate, retention
from tf_finetune.results.paired import mcnemar


@dataclasses.dataclass(slots=True, kw_only=True)
class Judgement:
    """What is known of a model.

    Attributes:
        card: as `evaluate.card` makes it.
        outputs: of the model that is shipped, by split.
        labels: by split.
    """

    card: dict[str, Any]
    outputs: Scores
    labels: dict[str, np.ndarray]


def judge(setup: Setup, config: FineTuneConfig, probe: Scores, untuned: Scores) -> Judgement:
    """Calibrates the model, then scores it, the probe and the majority on the same test rows.

    Args:
        setup: of the run, trained; its task gets the temperature.
        config: of the run.
        probe: what the head alone gave by split; empty if that is the model itself.
        untuned: what the network gave before it was tuned.
    """
    task, prepared = setup.task, setup.prepared
    labels = {name: prepared.labels[rows] for name, rows in prepared.splits.items()}
    logits = held_out(task.network, setup.store, prepared.splits, config.fit.eval_batch)
    how: Any = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}
    kind, names = task.kind, task.class_names
    facts: dict[str, Any] = {}
    if kind != "regression":
        if config.results.calibrate:
            task.calibrate(
                calibration.fit_temperature(kind, logits["validation"], labels["validation"])
            )
            # With a temperature of its own, or its log loss would be no match.
            probe = calibration.recalibrated(kind, probe, labels) if probe else probe
        facts["calibration"] = calibration.account(
            kind, logits["test"], labels["test"], task.temperature
        )
    outputs = activated(kind, {name: one / task.temperature for name, one in logits.items()})
    baselines = {
        "majority": evaluate.majority_baseline(kind, labels["train"], labels["test"], names, **how)
    }
    facts["validation"] = evaluate.score(
        kind, outputs["validation"], labels["validation"], names, **how
    )
    if probe:
        baselines["probe"] = evaluate.score(kind, probe["test"], labels["test"], names, **how)
        facts["gain_over_probe"] = evaluate.gain(
            kind, outputs["test"], probe["test"], labels["test"], **how
        )
        if kind != "regression":
            both = (
                evaluate.row_goodness(kind, o["test"], labels["test"]) for o in (outputs, probe)
            )
            facts["gain_over_probe"]["mcnemar"] = mcnemar(*both)
    if "retained" in outputs:
        pair = untuned.get("retained"), outputs["retained"]
        facts["retained"] = retention.account(kind, *pair, labels["retained"], names, **how)
    test = evaluate.score(kind, outputs["test"], labels["test"], names, **how)
    card = evaluate.card(kind, names, test, baselines, **facts)
    return Judgement(card=card, outputs=outputs, labels=labels)
