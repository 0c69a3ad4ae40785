"""AdamW with a rate and a step count for each variable."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.model.naming import variable_names
from tf_finetune.optim.l2_sp import Anchors, Pull
from tf_finetune.optim.layerwise import Layerwise
from tf_finetune.optim.multipliers import Multipliers, Pairs
from tf_finetune.value_checks import at_least

if TYPE_CHECKING:
    from tf_finetune.model.blocks import Groups

# Updates so far, momentum and velocity of each variable, by its name.
State = dict[str, tuple[int, np.ndarray, np.ndarray]]

_NO_DECAY = re.compile(r"(^|/|_)(bias|beta|gamma)$")


def depth_multipliers(groups: Groups, decay: float) -> list[tuple[keras.Variable, float]]:
    """Rates that fall from the head down to the stem (Clark et al. 2020, arXiv:2003.10555).

    The head has the whole rate, and each block that of the one above it times `decay`:
    block i of L, counted from 0, has `decay ** (L - i)` of it, the stem
    `decay ** (L + 1)`. (ELECTRA's own code has one power more below the head.) Howard &
    Ruder 2018 (arXiv:1801.06146) divide by 2.6. A variable in two groups, such as a tied
    embedding, has the lower rate.

    Args:
        groups: of a whole model, built.
        decay: above 0 and at most 1.

    Returns:
        A factor for each variable, which a layer-wise optimiser takes as `multipliers`.

    Raises:
        UserError: if `decay` is out of its range.
    """
    if not 0 < decay <= 1:
        raise UserError(
            f"decay is {decay}; it must be above 0 and at most 1, where 1 is one rate for all."
        )
    parts = groups.weights()
    return [
        (variable, decay ** (len(parts) - 1 - depth))
        for depth, variables in enumerate(parts)
        for variable in variables
    ]


@keras.saving.register_keras_serializable("tf_finetune")
class LayerwiseAdamW(Layerwise, keras.optimizers.AdamW):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), layer by layer.

    Each variable has a rate of its own and a step count of its own: one that begins to
    train later gets the bias correction of its own first step. Rates, bias corrections
    and decay are computed once a step, and each variable is written by TensorFlow's
    fused kernel: stock Keras adds a dozen small operations a variable and asks for the
    rate once a variable. Biases, norms and other vectors are not decayed.

    L2-SP (Li, Grandvalet & Davoine 2018, arXiv:1802.01483), decoupled as the decay is:
    what has an anchor is pulled to it, w -= rate * l2_sp * (w - anchor), instead of to 0.

    Takes the arguments of `keras.optimizers.AdamW` except `amsgrad`.

    Args:
        *args: as in `keras.optimizers.AdamW`.
        multipliers: pairs of a regular expression, searched for in `variable.path`, or
            a variable, and the factor of its rate, at least 0. The first match counts; a
            variable without one has the whole rate.
        warmup_steps: updates in which the rate of a variable rises in a straight line,
            counted from its own first: update u, from 0, has (u + 1) / (warmup_steps + 1)
            of the rate. So layers that open later are warmed up too, whatever the
            schedule's position; a schedule's own warm-up would come on top.
        l2_sp: how strongly variables are pulled to their anchors, at least 0.
        anchors: pairs of a variable and its value before fine-tuning. They are not in a
            configuration, but are saved and loaded with the optimiser's state.
        **kwargs: as in `keras.optimizers.AdamW`.

    Raises:
        UserError: for `amsgrad`, wrong multipliers or warm-up, anchors without `l2_sp`, or, when
            built, variables that are not float32 or unlike their anchors.
    """

    def __init__(
        self,
        *args: Any,
        multipliers: Pairs | None = None,
        warmup_steps: int = 0,
        l2_sp: float = 0.0,
        anchors: Anchors = (),
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("amsgrad", False):
            raise UserError("amsgrad=True is not supported by LayerwiseAdamW; leave it out.")
        if type(warmup_steps) is not int or warmup_steps < 0:
            raise UserError(
                f"warmup_steps is {warmup_steps!r}; it must be a whole number of updates, at "
                "least 0."
            )
        at_least("l2_sp", l2_sp, 0)
        if len(anchors) and not l2_sp:
            raise UserError("anchors is set, but l2_sp is 0; set l2_sp, or leave anchors out.")
        super().__init__(*args, **kwargs)
        self.warmup_steps = warmup_steps
        self._multipliers = Multipliers(multipliers or ())
        self.l2_sp = float(l2_sp)
        self._pull = Pull(anchors)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        for variable in variables:
            if variable.dtype != "float32":
                raise UserError(
                    f"the variable {variable.path} is {variable.dtype}, but LayerwiseAdamW trains "
                    "float32 variables alone; small steps would be lost in half precision. Make "
                    'the model in float32, or with a policy such as "mixed_bfloat16", which '
                    "computes in half precision and keeps its variables in float32."
                )
        super().build(variables)
        self._decayed = [
            len(v.shape) > 1 and not _NO_DECAY.search(v.path) and self._use_weight_decay(v)
            for v in variables
        ]
        self._pull.place(variables)
        # Updates of each variable, also those before this optimiser was made.
        self._ages = self.add_variable(
            shape=(len(variables),), initializer="zeros", dtype="int64", name="ages"
        )

    def state(self, variables: Sequence[keras.Variable] | None = None) -> State:
        """Updates so far, momentum and velocity of each variable, by its path.

        Where a path repeats, the second is called `path#2`, and so on. Averages and
        accumulated gradients are not part of it.

        Args:
            variables: in whose order paths are counted: the whole model's, where now
                these and now those of its variables train. By default those of this
                optimiser.
        """
        ages = self._ages.numpy()
        return {
            name: (int(age), m.numpy(), v.numpy())
            for name, age, m, v in zip(
                self._names(variables), ages, self._momentums, self._velocities, strict=True
            )
            if m is not None
        }

    def load_state(
        self,
        state: Mapping[str, tuple[int, np.ndarray, np.ndarray]],
        variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Takes over what `state` gave for the variables that this one has too.

        Args:
            state: of an optimiser of the same model.
            variables: as in `state`.

        Raises:
            UserError: if shapes differ, or variables of one path cannot be told apart.
        """
        names = self._names(variables)
        if variables is None:
            _check_repeats(names, state)
        ages = self._ages.numpy().copy()
        for i, name in enumerate(names):
            if name not in state or self._momentums[i] is None:
                continue
            ages[i], momentum, velocity = state[name]
            if tuple(momentum.shape) != tuple(self._momentums[i].shape):
                raise UserError(
                    f"the state of {name} has the shape {tuple(momentum.shape)}, the variable "
                    f"{tuple(self._momentums[i].shape)}; load a state of the same model."
                )
            self._momentums[i].assign(momentum)
            self._velocities[i].assign(velocity)
        self._ages.assign(ages)

    def _names(self, variables: Sequence[keras.Variable] | None) -> list[str]:
        if variables is None:
            return variable_names(self._trainable_variables)
        names = dict(zip(map(id, variables), variable_names(variables), strict=True))
        missing = [v.path for v in self._trainable_variables if id(v) not in names]
        if missing:
            raise UserError(
                f"variables lack {missing[0]}, which this optimiser trains; give all of the "
                "model: model.variables."
            )
        return [names[id(v)] for v in self._trainable_variables]

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Nothing: the decay is part of the update below."""

    def _distributed_tf_update_step(
        self, distribution: Any, grads_and_vars: Any, learning_rate: Any
    ) -> None:
        indices = [self._get_variable_index(variable) for _, variable in grads_and_vars]
        now = np.zeros(len(self._decayed), "int64")
        now[indices] = 1
        distribution.extended.update(
            self._ages.value, lambda ages: ages.assign_add(now), group=False
        )
        ages = tf.cast(tf.gather(tf.convert_to_tensor(self._ages.value), indices), tf.float64)
        rate = distribution.experimental_local_results(learning_rate)[0]
        rates = tf.cast(rate, tf.float64) * self._factors[indices]
        if self.warmup_steps:
            rates *= tf.minimum(ages / (self.warmup_steps + 1), 1.0)
        # The kernel's own float32 betas, so that both round alike.
        beta_1, beta_2 = (float(np.float32(beta)) for beta in (self.beta_1, self.beta_2))
        sizes = rates * tf.sqrt(1.0 - beta_2**ages) / (1.0 - beta_1**ages)
        anchors = self._pull.anchors(self.l2_sp)
        decay = self.weight_decay or 0.0
        strengths = np.array([decay if anchor is None else self.l2_sp for anchor in anchors])
        shrinks = rates * strengths[indices]
        constants = {
            # The bias correction is in the size already.
            "beta1_power": tf.constant(0.0),
            "beta2_power": tf.constant(0.0),
            "beta1": tf.constant(beta_1),
            "beta2": tf.constant(beta_2),
            "epsilon": tf.constant(self.epsilon),
        }

        def update(
            variable: tf.Variable, gradient: Any, index: int, size: tf.Tensor, shrink: tf.Tensor
        ) -> None:
            if (anchor := anchors[index]) is not None:
                variable.assign_sub((variable - anchor) * shrink, read_value=False)
            elif self.weight_decay and self._decayed[index]:
                variable.assign_sub(variable * shrink, read_value=False)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                lr=size,
                grad=tf.cast(tf.convert_to_tensor(gradient), variable.dtype),
                **constants,
            )

        for (gradient, variable), *of_it in zip(
            grads_and_vars,
            indices,
            tf.unstack(tf.cast(sizes, tf.float32)),
            tf.unstack(tf.cast(shrinks, tf.float32)),
            strict=True,
        ):
            distribution.extended.update(variable, update, (gradient, *of_it), group=False)

    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("amsgrad")
        return config | {
            "multipliers": self._multipliers.config(self._trainable_variables),
            "warmup_steps": self.warmup_steps,
            "l2_sp": self.l2_sp,
        }

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        self._pull.save(store)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(self._pull.load(store, len(self.variables)))


def _check_repeats(names: Sequence[str], state: Mapping[str, Any]) -> None:
    held, here = (Counter(re.sub(r"#\d+$", "", name) for name in them) for them in (state, names))
    for path in here:
        if held[path] not in (0, here[path]):
            raise UserError(
                f"the state holds {held[path]} variables with the path {path}, this optimiser "
                f"trains {here[path]}, and they cannot be told apart; give `variables`, all of "
                "the model in one order, to state and load_state."
            )
