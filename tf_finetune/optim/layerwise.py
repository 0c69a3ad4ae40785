"""A learning rate of its own for each variable, in any Keras optimiser."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.optim.multipliers import Multipliers, Pairs
from tf_finetune.optim.strategies import check_building


class Layerwise(keras.optimizers.Optimizer):
    """What a layer-wise optimiser has beside the rule of its update.

    Where stock Keras goes by steps, this goes by updates, which are fewer when
    gradients are accumulated: schedules, and the averages of `use_ema`. Those stay with
    their variables when only some train, and the rows of an embedding's gradient that
    occur twice are added up before it is clipped, not after.
    """

    _multipliers = Multipliers(())

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        check_building(self)
        # One factor for each of `_trainable_variables`.
        self._factors = self._multipliers.factors(variables)
        super().build(variables)

    def apply(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        if self.loss_scale_factor is not None:  # which Keras cannot divide slices by
            grads = [tf.convert_to_tensor(g) if _is_slices(g) else g for g in grads]
        super().apply(grads, trainable_variables)

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        # Before the first update the averages are 0.
        if int(self.iterations.numpy()):
            super().finalize_variable_values(var_list)

    def _get_current_learning_rate(self) -> Any:
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def _backend_apply_gradients(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable]
    ) -> None:
        every = self.gradient_accumulation_steps
        if not every:
            self._update(grads, trainable_variables)
            return
        sums = [
            self._accumulated_gradients[self._get_variable_index(v)] for v in trainable_variables
        ]

        def update() -> None:
            means = [(g + s) / every for g, s in zip(grads, sums, strict=True)]
            self._update(means, trainable_variables)
            self._backend_reset_gradient_accumulators()

        keras.ops.cond(
            (self._iterations + 1) % every == 0,
            update,
            lambda: self._backend_increment_gradient_accumulators(grads, sums),
        )

    def _update(self, grads: Sequence[Any], variables: Sequence[keras.Variable]) -> None:
        grads = self._clip_gradients(grads)
        self._apply_weight_decay(variables)
        self._backend_update_step(grads, variables, self.learning_rate)
        if not self.use_ema:
            return
        self._update_model_variables_moving_average(self._trainable_variables)
        if self.ema_overwrite_frequency:
            keras.ops.cond(
                (self.iterations + 1) % self.ema_overwrite_frequency == 0,
                lambda: self._overwrite_model_variables_with_average_value(variables),
                lambda: None,
            )

    def _overwrite_model_variables_with_average_value(
        self, trainable_variables: Sequence[keras.Variable]
    ) -> None:
        """Keras pairs these, in order, with the averages of all that could train."""
        for variable in trainable_variables:
            average = self._model_variables_moving_average[self._get_variable_index(variable)]
            if average is not None:
                self._distribution_strategy.extended.update(
                    variable.value, lambda v, a: v.assign(a), args=(average,)
                )

    def _clip_gradients(self, grads: Sequence[Any]) -> list[Any]:
        if not (self.clipnorm or self.global_clipnorm or self.clipvalue):
            return list(grads)
        grads = [_rows_added_up(g) if _is_slices(g) else g for g in grads]
        by_norm = not self.clipnorm and self.global_clipnorm and self.global_clipnorm > 0
        if by_norm and len({g.dtype for g in grads}) == 1:
            # What Keras computes, without its copy of each gradient to be squared.
            return tf.clip_by_global_norm(grads, self.global_clipnorm)[0]
        clipped = super()._clip_gradients([g.values if _is_slices(g) else g for g in grads])
        return [
            tf.IndexedSlices(c, g.indices, g.dense_shape) if _is_slices(g) else c
            for c, g in zip(clipped, grads, strict=True)
        ]


def _is_slices(gradient: Any) -> bool:
    return isinstance(gradient, tf.IndexedSlices)


def _rows_added_up(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    rows, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


# One name for the classes made of all optimisers: any of them can read what any wrote.
_registered = keras.saving.register_keras_serializable("tf_finetune", "Layerwise")


@_registered
class _Scaled(Layerwise):
    """Goes before the class of an optimiser that takes the rate in `update_step`."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        factor = float(self._factors[self._get_variable_index(variable)])
        super().update_step(gradient, variable, learning_rate * factor)

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        if self.weight_decay is None:
            return

        def decay(distribution: Any, variables: Sequence[keras.Variable]) -> None:
            rate = self.learning_rate
            for variable in variables:
                factor = float(self._factors[self._get_variable_index(variable)])
                distribution.extended.update(variable.value, shrink, (rate * factor,), group=False)

        def shrink(variable: Any, rate: Any) -> None:
            weight_decay = tf.cast(self.weight_decay, variable.dtype)
            variable.assign_sub(variable * weight_decay * tf.cast(rate, variable.dtype))

        tf.__internal__.distribute.interim.maybe_merge_call(
            decay,
            self._distribution_strategy,
            [v for v in variables if self._use_weight_decay(v)],
        )

    def get_config(self) -> dict:
        multipliers = self._multipliers.config(self._trainable_variables)
        return {**super().get_config(), "multipliers": multipliers, "wraps": dict(self._wraps)}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Layerwise:
        own = dict(config)
        multipliers, wraps = own.pop("multipliers"), own.pop("wraps")
        optimizer = keras.saving.deserialize_keras_object(
            {**wraps, "config": own}, custom_objects=custom_objects
        )
        return layerwise(optimizer, multipliers)


# An optimiser with one of these of its own does not take all of its rate in `update_step`.
_WAYS = ("apply", "_backend_apply_gradients", "_apply_weight_decay", "_distributed_tf_update_step")


def layerwise(optimizer: keras.optimizers.Optimizer, multipliers: Pairs) -> Layerwise:
    """A Keras optimiser that has each variable learn at a rate of its own.

    It is of a class made from that of `optimizer`, with the same settings, and can be
    saved with a model. Weight decay goes with the multiplied rate. What multiplies is
    the rate that an optimiser is given: where it makes its own of that, as Adafactor
    does with its upper bound, a variable does not move by the factor exactly.

    Args:
        optimizer: not built yet; it is left as it is.
        multipliers: pairs of a regular expression, searched for in `variable.path`, or
            a variable, and a factor of at least 0. The first match counts; a variable
            without one has the whole rate.

    Raises:
        UserError: for an optimiser that is built, wraps others or applies the rate in
            its own way (LossScaleOptimizer, MultiOptimizer, Muon); or for wrong
            multipliers.
    """
    base: Any = type(optimizer)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise UserError(
            f"optimizer is {optimizer!r}; give a keras.optimizers.Optimizer, such as SGD(0.1)."
        )
    if isinstance(optimizer, Layerwise):
        raise UserError(
            f"optimizer is a {base.__name__}, which takes multipliers itself; give them to it "
            "when it is made."
        )
    if any(getattr(base, way) is not getattr(keras.optimizers.Optimizer, way) for way in _WAYS):
        raise UserError(
            f"optimizer is a {base.__name__}, which applies its rate in its own way; use another, "
            "such as SGD, Adam or LayerwiseAdamW. A LossScaleOptimizer goes around the layer-wise "
            "one."
        )
    if optimizer.built:
        raise UserError(
            f"optimizer is a {base.__name__} that is built already; give one that has not been "
            "trained with."
        )
    description = keras.saving.serialize_keras_object(optimizer)
    # As `base` makes one of its own from a configuration, but of the class from it.
    made = super(_Scaled, _class_from(base)).from_config(optimizer.get_config())
    made._multipliers = Multipliers(multipliers)
    made._wraps = {key: description[key] for key in ("module", "class_name", "registered_name")}
    return with_exclusions(made, optimizer)


def with_exclusions(made: Any, optimizer: keras.optimizers.Optimizer) -> Any:
    """An optimiser that decays the weights that `optimizer` does, and no others.

    What `exclude_from_weight_decay` says is in no configuration: Keras's `from_config`
    makes an optimiser that decays them.
    """
    for exclusion in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(optimizer, exclusion):
            setattr(made, exclusion, getattr(optimizer, exclusion))
    return made


@functools.cache
def _class_from(base: type) -> Any:
    return _registered(type(f"Layerwise{base.__name__}", (_Scaled, base), {}))
