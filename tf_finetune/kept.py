"""What of a run's network is run once over its rows, and kept."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_finetune.assemble import Setup
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.data.views import ViewStore
from tf_finetune.fit.frozen_part import FrozenPart, Keeping
from tf_finetune.fit.planned_cuts import Planned, plan_cuts
from tf_finetune.model.blocks import layer_groups

_GB = 1_000_000_000


def cuts_of_run(setup: Setup, config: FineTuneConfig) -> list[Planned]:
    """For the baseline and each phase of a run, whether it trains on a cut.

    The first is of no phase where there is no baseline.
    """
    task = setup.task
    groups = layer_groups(task.network, task.backbone)
    phases = _phases(setup)
    tokens = float(np.mean(setup.store.lengths[setup.prepared.splits["train"]]))
    reason, views = "", views_of(setup, config)
    if setup.inputs.noise and not views:
        reason = (
            "config.data changes the rows to train on in each epoch, and config.fit.cache_views "
            "is 0"
        )
    elif config.fit.cutmix:
        reason = "config.fit.cutmix mixes the pictures to train on"
    if reason:
        # Nothing is said where there is nothing to keep, or the head's features are kept.
        whole = ("all", "head")
        return [Planned(why_not="" if p.train in whole else reason) for p in phases]
    first = 0 if setup.baseline else 1
    versions = views.views if views else 1
    return plan_cuts(groups, phases, tokens, first=first, features=task.one_vector, views=versions)


def views_of(setup: Setup, config: FineTuneConfig) -> ViewStore | None:
    """The rows and the changed versions of them that are kept; None where there are none."""
    noise, fit = setup.inputs.noise, config.fit
    if not (noise and fit.cache and fit.cache_views):
        return None
    return ViewStore(setup.store, noise, fit.cache_views, fit.seed)


def kept_rows(setup: Setup, views: ViewStore | None) -> tuple[np.ndarray, np.ndarray]:
    """All rows that features are kept of, and those that activations are kept of."""
    splits = setup.prepared.splits
    train = splits["train"]
    everything = np.concatenate(list(splits.values()))
    if views:
        train = views.changed(train)
        everything = np.concatenate([everything, train])
    return everything, np.concatenate([train, splits["validation"]])


def frozen_part(
    setup: Setup, config: FineTuneConfig, folder: Path, say: Callable[[str], None]
) -> FrozenPart | None:
    """The frozen part of the phases of a run, whose baseline is phase 0.

    Args:
        setup: of the run.
        config: of the run; None is kept where it says so.
        folder: for activations, which other runs on the same rows may share.
        say: where lines for people go.
    """
    task, fit = setup.task, config.fit
    if not fit.cache:
        return None
    # Of the model's settings dropout alone changes nothing below the head.
    model, views = dataclasses.replace(config.model, dropout=0.0), views_of(setup, config)
    changed = f"{views.views} {setup.inputs.noise} {fit.seed}" if views else ""
    inputs = f"{setup.prepared.digest} {setup.inputs.facts} {model} {changed}"
    keeping = Keeping(
        folder=folder,
        inputs=hashlib.sha256(inputs.encode()).hexdigest(),
        computed=f"{setup.precision} {tf.distribute.get_strategy().num_replicas_in_sync}",
        dtype="" if fit.cache_precision == "computed" else fit.cache_precision,
        memory=int(fit.cache_memory * _GB),
        batch=fit.eval_batch,
    )
    return FrozenPart(
        layer_groups(task.network, task.backbone),
        cuts_of_run(setup, config),
        _phases(setup),
        views or setup.store,
        *kept_rows(setup, views),
        task.encoder,
        keeping,
        say,
    )


def _phases(setup: Setup) -> list[Phase]:
    """By their numbers, of which the baseline's is 0."""
    return [setup.baseline or setup.phases[0], *setup.phases]
