"""From a recipe's name to the phases it stands for."""

from __future__ import annotations

import dataclasses

from tf_finetune.config import FineTuneConfig, Phase


def phases_of(config: FineTuneConfig) -> list[Phase]:
    """The phases of a run, each with a name.

    `probe` trains the head on the frozen backbone. `full` trains everything, or
    what `config.fit.train` selects. `probe_then_tune` does both in turn, so that the
    pretrained features are not distorted by the gradients of an untrained head
    (Kumar et al. 2022, arXiv:2202.10054).
    """
    fit = config.fit
    probe = Phase(
        name="probe",
        train="head",
        epochs=fit.probe_epochs,
        learning_rate=fit.probe_learning_rate,
        warmup=fit.warmup,
        patience=fit.patience,
    )
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
