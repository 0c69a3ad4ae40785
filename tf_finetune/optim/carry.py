"""What an optimiser knows of each variable, carried from one phase to the next.

Keras ties an optimiser to the variables that it was built with, so a phase that
trains others needs a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras

from tf_finetune.errors import UserError
from tf_finetune.model.naming import variable_names
from tf_finetune.optim.layerwise import with_exclusions
from tf_finetune.optim.optimizers import LayerwiseAdamW

# By variable and kind of slot.
State = dict[Any, Any]

_ITERATIONS = "iterations"


@keras.saving.register_keras_serializable("tf_finetune")
class Later(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that begins at a later update.

    Args:
        schedule: counted from 0.
        start: the update at which it begins.
    """

    def __init__(
        self, schedule: keras.optimizers.schedules.LearningRateSchedule, start: int
    ) -> None:
        self.schedule, self.start = schedule, start

    def __call__(self, step: Any) -> Any:
        return self.schedule(step - self.start)

    def get_config(self) -> dict:
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "start": self.start,
        }

    @classmethod
    def from_config(cls, config: dict) -> Later:
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["start"])


def another(
    optimizer: keras.optimizers.Optimizer,
    schedule: keras.optimizers.schedules.LearningRateSchedule,
    state: State,
) -> keras.optimizers.Optimizer:
    """A new optimiser with the settings of `optimizer`, but for its rate.

    Where `state` holds steps that were counted for all variables together, as stock
    optimisers do, the schedule begins after these.

    Raises:
        UserError: for an optimiser that wraps others, whose rates are out of reach, or
            that accumulates gradients over batches.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UserError(
            "optimizer is a LossScaleOptimizer; give the optimiser inside it: the loss is "
            "scaled where a model computes in float16."
        )
    many = keras.optimizers.MultiOptimizer
    if not isinstance(optimizer, keras.optimizers.Optimizer) or isinstance(optimizer, many):
        raise UserError(
            f"optimizer is {type(optimizer).__name__}; give one keras.optimizers.Optimizer such "
            "as SGD(momentum=0.9). Its learning rate is taken from each Phase."
        )
    if steps := optimizer.gradient_accumulation_steps:
        raise UserError(
            f"optimizer has gradient_accumulation_steps={steps}, of which Keras drops or carries "
            "over what an epoch leaves, and counts schedules in steps instead of updates; leave "
            "it out, make the batches that many times as large, and set micro_batch to what "
            "goes through the network at a time."
        )
    done = int(state.get(_ITERATIONS, 0))
    config = optimizer.get_config()
    scheduled = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
    config["learning_rate"] = Later(schedule, done) if done and scheduled else schedule
    return with_exclusions(type(optimizer).from_config(config), optimizer)


def state_of(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> State:
    """What is to be carried over, of an optimiser that has trained.

    Args:
        optimizer: built.
        variables: of the whole model, whose order tells apart those of one path.
    """
    if isinstance(optimizer, LayerwiseAdamW):
        return dict(optimizer.state(variables))
    state: State = {key: v.numpy() for key, v in _slots(optimizer, variables).items()}
    return state | {_ITERATIONS: int(optimizer._iterations.numpy())}


def carried_into(
    optimizer: keras.optimizers.Optimizer, state: State, variables: Sequence[keras.Variable]
) -> None:
    """Gives a built optimiser what `state_of` took, for the variables it has too."""
    if isinstance(optimizer, LayerwiseAdamW):
        optimizer.load_state(state, variables)
        return
    for key, variable in _slots(optimizer, variables).items():
        if key in state:
            variable.assign(state[key])
    optimizer._iterations.assign(state.get(_ITERATIONS, 0))


def _slots(
    optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]
) -> dict[tuple[str, str], keras.Variable]:
    """The optimiser's variables by what they belong to: (name of the variable, kind).

    Keras names a slot after its variable's path, which two layers of one model can
    share; those are told apart by their order.
    """
    named = dict(zip(map(id, variables), variable_names(variables), strict=True))
    owners: dict[str, list[str]] = {}
    for variable in optimizer._trainable_variables:
        owners.setdefault(variable.path.replace("/", "_"), []).append(named[id(variable)])
    slots: dict[tuple[str, str], keras.Variable] = {}
    shared: list[keras.Variable] = []
    seen: Counter[str] = Counter()
    own = (optimizer._iterations, optimizer._learning_rate)
    for slot in optimizer.variables:
        if any(slot is variable for variable in own):
            continue
        name = slot.path.partition("/")[2] or slot.path  # without the optimiser's own
        fits = [owner for owner in owners if name.startswith(f"{owner}_")]
        if fits:
            owner = max(fits, key=len)
            slots[owners[owner][seen[name]], name.removeprefix(owner)] = slot
            seen[name] += 1
        else:  # of all variables together; some have no name of their own
            shared.append(slot)
    return slots | {("", str(i)): slot for i, slot in enumerate(shared)}
