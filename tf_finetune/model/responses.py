"""Loss and metric of a language model: the tokens of responses, each by those before it."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("tf_finetune")
class ResponseCrossentropy(keras.losses.Loss):
    """The cross-entropies of a row's response tokens, in units of their mean number a row.

    So each token weighs the same, whatever its row and its batch. Labels are (n, length), the
    token that comes next, and -1 where that is not part of a response; outputs are logits
    (n, length, vocabulary).

    Args:
        words: the mean number of response tokens of a training row.
    """

    def __init__(self, words: float = 1.0, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.words = words

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """(n,), a number for each row."""
        return ops.sum(surprise(y_true, y_pred), axis=1) / self.words

    def get_config(self) -> dict:
        return {**super().get_config(), "words": self.words}


def surprise(y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
    """float32 (n, length): minus the log probability of a response token, else 0.

    Args:
        y_true: as in `ResponseCrossentropy`.
        y_pred: likewise; of any float type.
    """
    wanted = ops.cast(ops.maximum(y_true, 0), "int32")
    # A probability among so many needs all digits.
    logits = ops.cast(y_pred, "float32")
    each = keras.losses.sparse_categorical_crossentropy(wanted, logits, from_logits=True)
    return each * ops.cast(y_true >= 0, "float32")


@keras.saving.register_keras_serializable("tf_finetune")
class TokenAccuracy(keras.metrics.Mean):
    """The share of response tokens that are the most probable after those before them.

    Takes what `ResponseCrossentropy` takes.
    """

    def __init__(self, name: str = "accuracy", **kwargs: object) -> None:
        super().__init__(name=name, **kwargs)

    def update_state(
        self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor, sample_weight: object = None
    ) -> None:
        """Adds the tokens of some rows."""
        # Flat: Keras takes means over rows first, in which padding would count.
        there = ops.cast(y_true >= 0, "float32")
        super().update_state(*(ops.reshape(x, (-1,)) for x in (right(y_true, y_pred), there)))


def right(y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
    """float32 (n, length): 1 where the response token is the most probable one, else 0."""
    chosen = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
    return ops.cast(chosen == ops.cast(y_true, "int32"), "float32")
