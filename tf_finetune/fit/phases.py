"""From a recipe's name to the phases it stands for."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Sequence

from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.data_checks import LANGUAGE
from tf_finetune.fit_settings import FitConfig

# Full fine-tuning on few rows fails for want of updates more than for want of rows: Mosbach
# et al. 2021 (arXiv:2006.04884) train for 20 epochs, Zhang et al. 2021 (arXiv:2006.05987)
# find that more updates than 3 epochs give help most on the smallest sets.
_UPDATES = 200
_EPOCHS = (2, 20)
# On cached features an epoch takes a moment, and a head alone seldom overfits.
_PROBE_EPOCHS = (30, _UPDATES)

_PROBE = {"probe_epochs", "probe_learning_rate"}
_TUNE = {"train", "epochs", "learning_rate", "schedule", "layer_decay"}
_LORA = _TUNE - {"train", "learning_rate"} | {"lora_learning_rate"}
_READS = {
    "probe": _PROBE,
    "full": _TUNE,
    "probe_then_tune": _PROBE | _TUNE,
    "gradual": _PROBE | _TUNE,
    "lora": _PROBE | _LORA,
}


def unread(recipes: Iterable[str], *, solved: bool = False) -> set[str]:
    """The settings of `config.fit` that none of these recipes reads, but others do.

    Args:
        recipes: names.
        solved: heads are solved for and not trained, by `fit.probe_solver=lbfgs`.
    """
    found = (_PROBE | _TUNE | _LORA).difference(*(_READS[recipe] for recipe in recipes))
    return found | _PROBE if solved else found


def told_of_unread(config: FineTuneConfig) -> list[str]:
    """One line for each setting that was changed and that nothing in the run reads."""
    fit, defaults = config.fit, type(config.fit)()
    named = isinstance(config.phases, str)
    found = unread([config.phases] if named else [])
    if config.results.probe_baseline:
        found -= _PROBE
    if fit.probe_solver == "lbfgs":
        found |= _PROBE
    recipe = f'phases="{config.phases}"' if named else "a list of phases"
    return [
        f"config.fit.{name} is {getattr(fit, name)!r}, which {recipe} does not read"
        for name in sorted(found)
        if getattr(fit, name) != getattr(defaults, name)
    ]


def epochs_for(updates: int, least: int, most: int) -> int:
    """As many epochs as make enough updates.

    Args:
        updates: an epoch.
        least: epochs, on many rows.
        most: epochs, on few.
    """
    return min(max(math.ceil(_UPDATES / updates), least), most)


def phases_of(config: FineTuneConfig, blocks: int, updates: int) -> list[Phase]:
    """The phases of a run, each with a name.

    `probe` trains the head on the frozen backbone. `full` trains everything, or
    what `config.fit.train` selects. `probe_then_tune` does both in turn, so that the
    pretrained features are not distorted by the gradients of an untrained head
    (Kumar et al. 2022, arXiv:2202.10054). `gradual` opens one block an epoch from the
    last to the first between the two (Howard & Ruder 2018, arXiv:1801.06146). `lora`
    trains adapters after the head (Hu et al. 2021, arXiv:2106.09685). A language model has
    no head of its own to begin with.

    Args:
        config: of the run.
        blocks: of the backbone.
        updates: an epoch; decides where `epochs` or `probe_epochs` is 0.
    """
    fit, probe = config.fit, _probe(config.fit, "probe", updates)
    first = [] if config.model.task == LANGUAGE else [probe]
    tune = Phase(
        name="tune",
        train=fit.train,
        epochs=fit.epochs or epochs_for(updates, *_EPOCHS),
        learning_rate=fit.learning_rate,
        schedule=fit.schedule,
        warmup=fit.warmup,
        layer_decay=fit.layer_decay,
        patience=fit.patience,
    )
    one_more = [
        dataclasses.replace(
            tune, name=f"open {k}", train=f"last:{k}", epochs=1, schedule="constant"
        )
        for k in range(1, blocks + 1)
    ]
    recipes = {
        "probe": [probe],
        "full": [tune],
        "probe_then_tune": [probe, tune],
        "gradual": [*first, *one_more, tune],
        "lora": [
            *first,
            dataclasses.replace(
                tune, name="lora", train="lora", learning_rate=fit.lora_learning_rate
            ),
        ],
    }
    if isinstance(config.phases, str):
        return recipes[config.phases]
    return [dataclasses.replace(phase, name=phase.name or phase.train) for phase in config.phases]


def repeated(phases: Sequence[Phase], opened: Sequence[Collection[int]]) -> list[str]:
    """One line for each phase that is as the one before, rate and all.

    Args:
        phases: of the run.
        opened: of each, the ids of the variables that may change in it.
    """
    return [
        f"phase {after.name} trains what phase {before.name} before it does, at the same "
        f"{after.learning_rate:g}; one phase with more epochs would decay its rate once."
        for (before, there), (after, here) in itertools.pairwise(zip(phases, opened, strict=True))
        if there == here and before.learning_rate == after.learning_rate
    ]


def probe_baseline(config: FineTuneConfig, phases: Sequence[Phase], updates: int) -> Phase | None:
    """The head trained alone, only to compare with; None where none is new or it comes first.

    Args:
        config: of the run.
        phases: of the run.
        updates: as in `phases_of`.
    """
    new = config.model.task != LANGUAGE
    if not (new and config.results.probe_baseline) or phases[0].train == "head":
        return None
    return _probe(config.fit, "probe-baseline", updates)


def _probe(fit: FitConfig, name: str, updates: int) -> Phase:
    return Phase(
        name=name,
        train="head",
        epochs=fit.probe_epochs or epochs_for(updates, *_PROBE_EPOCHS),
        learning_rate=fit.probe_learning_rate,
        warmup=fit.warmup,
        patience=fit.patience,
    )
