"""R-Drop: two passes with dropout are to say the same."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tf_finetune.errors import UserError
from tf_finetune.model.heads import SmoothedCrossentropy

_CLASSES = (
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
)
_LABELS = (keras.losses.binary_crossentropy, keras.losses.binary_focal_crossentropy)
_VALUES = (
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.huber,
    keras.losses.log_cosh,
)


class Disagreement(keras.losses.Loss):
    """How far two outputs for the same input are apart (Liang et al. 2021, arXiv:2106.14448).

    Half the sum of both Kullback-Leibler divergences, between the distributions over
    classes, or in the mean over labels that are true or not; the mean squared difference
    of values.

    Args:
        loss: that the outputs are trained by; it tells what they stand for.

    Raises:
        UserError: if it does not.
    """

    def __init__(self, loss: Any) -> None:
        super().__init__(name="disagreement", reduction=loss.reduction)
        function: Any = getattr(loss, "fn", None)
        self._logits = getattr(loss, "_fn_kwargs", {}).get("from_logits", False)
        if isinstance(loss, SmoothedCrossentropy):
            function, self._logits = _CLASSES[0], True
        if function not in (*_CLASSES, *_LABELS, *_VALUES):
            raise UserError(
                f"r_drop compares two outputs by what they stand for, which the loss {loss.name} "
                "does not tell; use a cross-entropy or a squared or absolute error of Keras, or "
                "set r_drop to 0."
            )
        self._function = function

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One number an example, from the two outputs (examples, ..., k)."""
        if self._function in _VALUES:
            return ops.mean(ops.square(y_true - y_pred), axis=-1)
        mean = ops.sum if self._function in _CLASSES else ops.mean
        (p, log_p), (q, log_q) = (self._shares(y) for y in (y_true, y_pred))
        return mean((p - q) * (log_p - log_q), axis=-1) / 2

    def _shares(self, y: Any) -> tuple[Any, Any]:
        """Probabilities, and their logarithms; for labels the log odds, which do as well."""
        classes = self._function in _CLASSES
        if self._logits:
            return (ops.softmax(y), ops.log_softmax(y)) if classes else (ops.sigmoid(y), y)
        tiny = keras.config.epsilon()
        inside = ops.clip(y, tiny, 1 - tiny)
        return y, ops.log(inside) - (0 if classes else ops.log(1 - inside))
