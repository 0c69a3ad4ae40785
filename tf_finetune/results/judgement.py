"""What a run's model is worth: its card, from the test split used once."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tf_finetune.assemble import Setup
from tf_finetune.config import FineTuneConfig
from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.fit.held_out import Scores, activated, held_out
from tf_finetune.results import calibration, evaluate, retention
from tf_finetune.results.paired import mcnemar
from tf_finetune.results.response_judgement import judge_responses
from tf_finetune.results.tag_judgement import judge_tags


@dataclasses.dataclass(slots=True, kw_only=True)
class Judgement:
    """What is known of a model.

    Attributes:
        card: as `evaluate.card` makes it.
        outputs: of the model that is shipped, by split.
        labels: by split; of tagged words as in `Prepared`, and none of a language model.
    """

    card: dict[str, Any]
    outputs: Scores
    labels: dict[str, np.ndarray]


def judge(
    setup: Setup,
    config: FineTuneConfig,
    probe: Scores,
    untuned: Scores,
    previous: np.ndarray | None = None,
) -> Judgement:
    """Calibrates the model, then scores it and what it is compared with on the same test rows.

    Args:
        setup: of the run, trained; its task gets the temperature.
        config: of the run.
        probe: what the head alone gave by split; empty if that is the model itself.
        untuned: what the network gave before it was tuned.
        previous: what an earlier run gave for the test rows.
    """
    task, prepared = setup.task, setup.prepared
    if task.kind == LANGUAGE:
        card, outputs = judge_responses(setup, config, untuned)
        return Judgement(card=card, outputs=outputs, labels={})
    labels = {name: prepared.labels[rows] for name, rows in prepared.splits.items()}
    # How sure the model should be: of soft labels their shares.
    targets = {name: prepared.targets[rows] for name, rows in prepared.splits.items()}
    if task.kind == TOKENS:
        card, outputs = judge_tags(setup, config, probe)
        return Judgement(card=card, outputs=outputs, labels=labels)
    logits = held_out(task.network, setup.store, prepared.splits, config.fit.eval_batch)
    how: Any = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}
    kind, names = task.kind, task.class_names
    facts: dict[str, Any] = {}
    if kind != "regression":
        if config.results.calibrate:
            task.calibrate(
                calibration.fit_temperature(kind, logits["validation"], targets["validation"])
            )
            # With a temperature of its own, or its log loss would be no match.
            probe = calibration.recalibrated(kind, probe, targets) if probe else probe
            if "validation" in untuned:
                untuned = calibration.recalibrated(kind, untuned, targets)
        facts["calibration"] = calibration.account(
            kind, logits["test"], targets["test"], task.temperature
        )
    outputs = activated(kind, {name: one / task.temperature for name, one in logits.items()})
    baselines = {
        "majority": evaluate.majority_baseline(kind, labels["train"], labels["test"], names, **how)
    }
    facts["validation"] = evaluate.score(
        kind, outputs["validation"], labels["validation"], names, **how
    )
    beside = {"probe": probe["test"]} if probe else {}
    if previous is not None:
        beside["previous"] = previous
    for name, other in beside.items():
        baselines[name] = evaluate.score(kind, other, labels["test"], names, **how)
        facts[f"gain_over_{name}"] = _gain(kind, outputs["test"], other, labels["test"], how)
    if "retained" in outputs:
        pair = untuned.get("retained"), outputs["retained"]
        facts["retained"] = retention.account(kind, *pair, labels["retained"], names, **how)
    test = evaluate.score(kind, outputs["test"], labels["test"], names, **how)
    card = evaluate.card(kind, names, test, baselines, **facts)
    return Judgement(card=card, outputs=outputs, labels=labels)


def _gain(
    kind: str, outputs: np.ndarray, other: np.ndarray, labels: np.ndarray, how: dict[str, Any]
) -> dict[str, Any]:
    """What the model is ahead by, and for classes whether chance would explain it."""
    found = evaluate.gain(kind, outputs, other, labels, **how)
    if kind != "regression":
        found["mcnemar"] = mcnemar(
            *(evaluate.row_goodness(kind, one, labels) for one in (outputs, other))
        )
    return found
