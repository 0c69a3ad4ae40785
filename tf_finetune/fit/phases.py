"""From a recipe's name to the phases it stands for."""

from __future__ import annotations

import dataclasses

from tf_finetune.config import FineTuneConfig, FitConfig, Phase


def phases_of(config: FineTuneConfig) -> list[Phase]:
    """The phases of a run, each with a name.

    `probe` trains the head on the frozen backbone. `full` trains everything, or
    what `config.fit.train` selects. `probe_then_tune` does both in turn, so that the
    pretrained features are not distorted by the gradients of an untrained head
    (Kumar et al. 2022, arXiv:2202.10054).
    """
    fit, probe = config.fit, _probe(config.fit, "probe")
    tune = Phase(
        name="tune",
        train=fit.train,
        epochs=fit.epochs,
        learning_rate=fit.learning_rate,
        warmup=fit.warmup,
        patience=fit.patience,
    )
    recipes = {"probe": [probe], "full": [tune], "probe_then_tune": [probe, tune]}
    if isinstance(config.phases, str):
        return recipes[config.phases]
    return [dataclasses.replace(phase, name=phase.name or phase.train) for phase in config.phases]


def probe_baseline(config: FineTuneConfig) -> Phase | None:
    """The head trained alone, only to compare with; None if the run begins with that."""
    if not config.results.probe_baseline or phases_of(config)[0].train == "head":
        return None
    return _probe(config.fit, "probe-baseline")


def _probe(fit: FitConfig, name: str) -> Phase:
    return Phase(
        name=name,
        train="head",
        epochs=fit.probe_epochs,
        learning_rate=fit.probe_learning_rate,
        warmup=fit.warmup,
        patience=fit.patience,
    )
