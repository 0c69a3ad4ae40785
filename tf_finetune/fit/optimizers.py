"""AdamW with a step count per variable, and the schedule of its rate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_NO_DECAY = re.compile(r"(^|/|_)(bias|beta|gamma)$")


@keras.saving.register_keras_serializable("tf_finetune")
class WarmupLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Rises from 0 to the peak, then falls in a straight line to 0.

    The shape used to fine-tune BERT (Devlin et al. 2019, arXiv:1810.04805).

    Args:
        peak: the highest rate.
        warmup_steps: optimiser updates until the peak.
        total_steps: updates until the rate is 0.
    """

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        # The first update is number 0 and must not have a rate of 0.
        rising = (step + 1.0) / (self.warmup_steps + 1.0)
        falling = (self.total_steps - step) / max(self.total_steps - self.warmup_steps, 1)
        return self.peak * tf.maximum(tf.minimum(rising, falling), 0.0)

    def get_config(self) -> dict:
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }


@keras.saving.register_keras_serializable("tf_finetune")
class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) that counts steps per variable.

    A variable that begins to train later gets the bias correction of its own first
    step. Rate, bias correction and decay are computed once a step, and each
    variable is written by TensorFlow's fused kernel: stock Keras adds a dozen small
    operations a variable and asks for the rate once a variable. Biases, norms and
    other vectors are not decayed.

    Takes the arguments of `keras.optimizers.AdamW` except `amsgrad`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.pop("amsgrad", False):
            raise ValueError("LayerwiseAdamW has no amsgrad.")
        super().__init__(*args, **kwargs)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self._decayed = {
            self._var_key(v): len(v.shape) > 1 and not _NO_DECAY.search(v.path) for v in variables
        }
        # Updates that a variable had before this optimiser was made.
        self._ages = self.add_variable(
            shape=(len(variables),), initializer="zeros", dtype="int64", name="ages"
        )

    def state(self) -> dict[str, tuple[int, np.ndarray, np.ndarray]]:
        """Updates so far, momentum and velocity of each variable, by its path."""
        ages = self._ages.numpy() + int(self.iterations.numpy())
        return {
            v.path: (int(age), m.numpy(), s.numpy())
            for v, age, m, s in zip(
                self._trainable_variables, ages, self._momentums, self._velocities, strict=True
            )
        }

    def load_state(self, state: dict[str, tuple[int, np.ndarray, np.ndarray]]) -> None:
        """Takes over what `state` gave for the variables that this one has too."""
        ages = self._ages.numpy().copy()
        for i, variable in enumerate(self._trainable_variables):
            if variable.path in state:
                ages[i], momentum, velocity = state[variable.path]
                self._momentums[i].assign(momentum)
                self._velocities[i].assign(velocity)
        self._ages.assign(ages)

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Nothing: the decay is part of the update below."""

    def _distributed_tf_update_step(
        self, distribution: Any, grads_and_vars: Any, learning_rate: Any
    ) -> None:
        rate = tf.cast(learning_rate, tf.float32)
        steps = tf.cast(self._ages.value + tf.cast(self.iterations, "int64") + 1, tf.float32)
        beta_1_powers, beta_2_powers = self.beta_1**steps, self.beta_2**steps
        keep = 1.0 - rate * (self.weight_decay or 0.0)

        def update(variable: tf.Variable, gradient: tf.Tensor, index: int) -> None:
            if self.weight_decay and self._decayed[self._var_key(variable)]:
                variable.assign(variable * keep)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=self._momentums[index].value.handle,
                v=self._velocities[index].value.handle,
                beta1_power=beta_1_powers[index],
                beta2_power=beta_2_powers[index],
                lr=rate,
                beta1=self.beta_1,
                beta2=self.beta_2,
                epsilon=self.epsilon,
                grad=tf.convert_to_tensor(gradient),
            )

        for gradient, variable in grads_and_vars:
            index = self._get_variable_index(variable)
            distribution.extended.update(
                variable, update, args=(gradient,), kwargs={"index": index}, group=False
            )

    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("amsgrad")
        return config
