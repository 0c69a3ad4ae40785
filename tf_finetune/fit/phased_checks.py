"""What `fit_phases` refuses of its arguments before it looks at the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import keras

from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.fit.unfreezing import GradualUnfreezing
from tf_finetune.optim.optimizers import LayerwiseAdamW
from tf_finetune.value_checks import at_least


def check_callbacks(callbacks: Sequence[keras.callbacks.Callback], phases: Sequence[Phase]) -> None:
    """Raises `UserError` for a callback that would set what the phases set."""
    for callback in callbacks:
        name = type(callback).__name__
        if isinstance(callback, GradualUnfreezing):
            raise UserError(
                f"callbacks holds a {name}; in fit_phases the phases say what trains. Leave it "
                "out, or use it in model.fit."
            )
        if isinstance(
            callback, keras.callbacks.LearningRateScheduler | keras.callbacks.ReduceLROnPlateau
        ):
            raise UserError(
                f"callbacks holds a {name}, but each Phase has a schedule of its rate; leave it "
                'out, or set schedule="plateau" in the phases.'
            )


def check_l2_sp(l2_sp: float, optimizer: Any) -> None:
    """Raises `UserError` where an optimiser of the user's own would have to pull."""
    at_least("l2_sp", l2_sp, 0)
    if optimizer is not None and (l2_sp or getattr(optimizer, "l2_sp", 0)):
        raise UserError(
            f"l2_sp is {l2_sp or optimizer.l2_sp:g}, but optimizer is a "
            f"{type(optimizer).__name__} of your own; only the default optimiser is given the "
            "weights to pull to. Leave optimizer out, or set l2_sp to 0."
        )


def decay_and_norm(
    weight_decay: float | None,
    clip: float | None,
    optimizer: Any,
    phases: Sequence[Phase],
) -> tuple[float, float]:
    """Weight decay and clipping norm of the default optimiser.

    Raises:
        UserError: for one below 0, or a setting of the default optimiser beside another.
    """
    given = {"weight_decay": weight_decay, "clip": clip}
    decays = [phase.layer_decay for phase in phases if phase.layer_decay < 1]
    for name, value in given.items():
        if value is not None:
            at_least(name, value, 0)
    given["layer_decay"] = decays[0] if decays else None
    for name, value in given.items():
        if optimizer is not None and value is not None:
            raise UserError(
                f"{name} is {value:g}, but optimizer is a {type(optimizer).__name__} of your own, "
                f"which would not go by it. Set this optimiser's own arguments (LayerwiseAdamW "
                f"takes multipliers of the rate), or leave {name} out, or optimizer."
            )
    return 0.01 if weight_decay is None else weight_decay, 1.0 if clip is None else clip


def check_averages(optimizer: Any) -> None:
    """Raises `UserError` for averages that the best epoch would undo, or that begin at zero."""
    if not getattr(optimizer, "use_ema", False):
        return
    if optimizer.ema_overwrite_frequency and not isinstance(optimizer, LayerwiseAdamW):
        raise UserError(
            f"optimizer is a {type(optimizer).__name__} with use_ema=True and "
            "ema_overwrite_frequency, of which Keras has the averages of what a later phase opens "
            "begin at zero and puts these into the weights; leave it out, and give fit_phases "
            f"ema={optimizer.ema_momentum:g}."
        )
    if not optimizer.ema_overwrite_frequency:
        raise UserError(
            f"optimizer is a {type(optimizer).__name__} with use_ema=True, whose averages Keras "
            "puts in after the last epoch, where the best one takes their place; leave it out, and "
            f"give fit_phases ema={optimizer.ema_momentum:g}."
        )


def fewest_epochs(phases: Sequence[Phase], trained: Sequence[Collection[int]]) -> int:
    """For how many epochs that variable trains that trains for the fewest.

    Args:
        phases: of the run.
        trained: of each, the ids of the variables that train in it.
    """
    epochs = Counter[int]()
    for phase, ids in zip(phases, trained, strict=True):
        epochs.update(dict.fromkeys(ids, phase.epochs))
    return min(epochs.values())


def check_validation(validation: Any, phases: Sequence[Phase], monitor: str) -> None:
    """Raises `UserError` where phases would go by figures that there will not be."""
    if not monitor.startswith("val_"):
        raise UserError(
            f'monitor is "{monitor}"; it must be val_loss, or val_ and the name of a metric.'
        )
    if validation is not None:
        return
    for phase in phases:
        if phase.patience or phase.schedule == "plateau":
            setting = "patience" if phase.patience else 'schedule="plateau"'
            raise UserError(
                f"phase {phase.name} has {setting}, but there is no validation to go by; give "
                "validation, or leave it out."
            )
    if monitor != "val_loss":
        raise UserError(f'monitor is "{monitor}", but there is no validation; give it.')
