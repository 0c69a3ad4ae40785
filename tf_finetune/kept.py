"""What of a run's network is run once over its rows, and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.assemble import Setup
from tf_finetune.checkpoints.files import Facts
from tf_finetune.checkpoints.lock import locked
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.data.views import ViewStore
from tf_finetune.errors import UserError
from tf_finetune.fit.cut_costs import Costs, costs_in_run, remembered
from tf_finetune.fit.frozen_part import FrozenPart
from tf_finetune.fit.keeping import COSTS, Keeping, remove_unfinished
from tf_finetune.fit.planned_cuts import Planned, decided, plan_cuts
from tf_finetune.fit.strategy import is_chief
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.slicing import Cut

_GB = 1_000_000_000
CUTS = "cuts"  # of the facts of a run; None until it is decided


def cuts_of_run(
    setup: Setup,
    config: FineTuneConfig,
    folder: Path,
    before: Sequence[str | None] | None = None,
    *,
    measures: bool = True,
) -> list[Planned]:
    """For the baseline and each phase of a run, whether it trains on a cut.

    The first is of no phase where there is no baseline.

    Args:
        setup: of the run.
        config: of the run.
        folder: in which activations would be kept.
        before: what `decided` said when the run began.
        measures: without it the rule alone decides.
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
    store, (_, kept) = views or setup.store, kept_rows(setup, views)
    how = _keeping(setup, config, folder, views)

    def measure(cut: Cut) -> Costs | None:
        key = f"{how.inputs} {how.computed} {how.dtype} {how.memory} {len(kept)} {cut.ends()}"
        return remembered(
            folder / COSTS,
            key,
            lambda: costs_in_run(cut, store, kept, folder, how.dtype, how.memory, how.batch),
        )

    return plan_cuts(
        groups,
        phases,
        tokens,
        first=first,
        features=task.one_vector,
        views=views.views if views else 1,
        rows=sum(len(setup.prepared.splits[name]) for name in ("train", "validation")),
        measure=measure if measures else None,
        before=before,
    )


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


@contextlib.contextmanager
def kept_in(config: FineTuneConfig, own: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """The folder for what is kept: that of `fit.cache_folder`, held for this run, or its own.

    Its own too where another run holds the other, and for workers beside the chief.

    Args:
        config: of the run.
        own: the run's.
        say: where lines for people go.

    Raises:
        UserError: if nothing can be written into `fit.cache_folder`.
    """
    shared = Path(config.fit.cache_folder).expanduser()
    if not (config.fit.cache and config.fit.cache_folder and is_chief()):
        yield own
        return
    with contextlib.ExitStack() as held:
        try:
            shared.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(shared))
            remove_unfinished(shared)
        except OSError as error:
            raise UserError(
                f'config.fit.cache_folder "{shared}" cannot be written to ({error.strerror}). '
                "Choose another, or leave it empty."
            ) from None
        except UserError:
            say(f'"{shared}" is in use by another run; what is frozen is kept in {own}')
            shared = own
        yield shared


def frozen_part(
    setup: Setup,
    config: FineTuneConfig,
    folder: Path,
    say: Callable[[str], None],
    facts: Facts | None = None,
    room: int = 0,
) -> FrozenPart | None:
    """The frozen part of the phases of a run, whose baseline is phase 0.

    Args:
        setup: of the run, whose types are set as it will train.
        config: of the run; None is kept where it says so.
        folder: for activations, which other runs on the same rows may share.
        say: where lines for people go.
        facts: that hold for all of the run, where it may be stopped and go on: which phases
            train on a cut is taken from there, or noted.
        room: bytes of the disk that are left to the run.
    """
    task = setup.task
    if not config.fit.cache:
        return None
    views = views_of(setup, config)
    facts = {CUTS: None} if facts is None else facts
    # One that began before decisions were kept decided by the rule.
    planned = cuts_of_run(setup, config, folder, facts.get(CUTS), measures=CUTS in facts)
    facts[CUTS] = decided(planned)
    return FrozenPart(
        layer_groups(task.network, task.backbone),
        planned,
        _phases(setup),
        views or setup.store,
        *kept_rows(setup, views),
        task.encoder,
        dataclasses.replace(_keeping(setup, config, folder, views), room=room),
        say,
    )


def _keeping(
    setup: Setup, config: FineTuneConfig, folder: Path, views: ViewStore | None
) -> Keeping:
    fit = config.fit
    # Of the model's settings dropout alone changes nothing below the head.
    model = dataclasses.replace(config.model, dropout=0.0)
    changed = f"{views.views} {setup.inputs.noise} {fit.seed}" if views else ""
    inputs = f"{setup.prepared.digest} {setup.inputs.facts} {model} {changed}"
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return Keeping(
        folder=folder,
        inputs=hashlib.sha256(inputs.encode()).hexdigest(),
        computed=" ".join([setup.precision, str(replicas), tf.__version__, keras.__version__]),
        dtype=_stored_in(config),
        memory=int(fit.cache_memory * _GB),
        batch=fit.eval_batch,
    )


def _stored_in(config: FineTuneConfig) -> str:
    """The dtype that floats are kept in; empty for the one they are computed in."""
    chosen = config.fit.cache_precision
    return "" if chosen == "computed" else chosen


def _phases(setup: Setup) -> list[Phase]:
    """By their numbers, of which the baseline's is 0."""
    return [setup.baseline or setup.phases[0], *setup.phases]
