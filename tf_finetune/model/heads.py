"""From a task to its head's activation, loss and metrics."""

from __future__ import annotations

import keras
from keras import ops

from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.model.responses import ResponseCrossentropy, TokenAccuracy
from tf_finetune.model.tagging import SpanF1, TagScore, WordCrossentropy


@keras.saving.register_keras_serializable("tf_finetune")
class TokenPooling(keras.layers.Layer):
    """One vector for a text or a picture from the vectors of its tokens.

    Always computed in float32: a mean over hundreds of tokens loses its last
    digits in a 16-bit type.

    Args:
        mode: `first` takes the first token, `mean` and `max` run over the real
            tokens, without padding.
    """

    def __init__(self, mode: str, **kwargs: object) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.mode = mode

    def call(
        self, tokens: keras.KerasTensor, padding_mask: keras.KerasTensor | None = None
    ) -> keras.KerasTensor:
        """(batch, length, width) and a (batch, length) mask to (batch, width)."""
        if self.mode == "first":
            return tokens[:, 0, :]
        if padding_mask is None:  # parts of a picture
            return ops.mean(tokens, axis=1) if self.mode == "mean" else ops.max(tokens, axis=1)
        mask = ops.expand_dims(ops.cast(padding_mask, tokens.dtype), -1)
        if self.mode == "mean":
            return ops.sum(tokens * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)
        return ops.max(ops.where(mask > 0, tokens, -1e9), axis=1)

    def get_config(self) -> dict:
        return {**super().get_config(), "mode": self.mode}


def activation(kind: str) -> str:
    """The activation that turns the head's logits into what is reported."""
    given = {"multi_label": "sigmoid", "regression": "linear", LANGUAGE: "linear"}
    return given.get(kind, "softmax")


def loss(
    kind: str, label_smoothing: float = 0.0, words: float = 1.0, *, soft: bool = False
) -> keras.losses.Loss:
    """The loss on logits.

    Labels are (n,) whole numbers for `classification`, or where `soft` shares (n, k) of
    classes, (n, k) zeros and ones for `multi_label` and (n, 1) numbers for `regression`; for
    `token_classification` as in `WordCrossentropy`, of which `words` is the mean number of a row,
    and for `causal_lm` as in `ResponseCrossentropy`.
    """
    if kind == "regression":
        return keras.losses.MeanSquaredError()
    if kind == TOKENS:
        return WordCrossentropy(words, label_smoothing)
    if kind == LANGUAGE:
        return ResponseCrossentropy(words)
    if kind == "multi_label":
        return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    if soft:
        return keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing
        )
    if label_smoothing:
        return SmoothedCrossentropy(label_smoothing)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable("tf_finetune")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of whole-number labels with smoothing, which stock Keras lacks."""

    def __init__(self, label_smoothing: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        targets = ops.one_hot(ops.cast(y_true, "int32"), y_pred.shape[-1], dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(
            targets, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )

    def get_config(self) -> dict:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def metrics(kind: str, *, soft: bool = False) -> list[keras.metrics.Metric]:
    """What is shown while training, of labels as in `loss`; by the first phases are judged."""
    if kind == "regression":
        return [keras.metrics.MeanAbsoluteError(name="mae")]
    if kind == TOKENS:
        return [TagScore(), SpanF1()]
    if kind == LANGUAGE:
        return [TokenAccuracy()]
    if kind == "multi_label":
        # Logits: above 0 is a probability above one half.
        return [keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)]
    if soft:
        return [keras.metrics.CategoricalAccuracy(name="accuracy")]
    return [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]


def monitor(kind: str) -> tuple[str, str]:
    """The validation metric that phases are judged by, and `max` or `min`."""
    found = {"regression": ("val_mae", "min"), TOKENS: ("val_score", "max")}
    found[LANGUAGE] = ("val_loss", "min")
    return found.get(kind, ("val_accuracy", "max"))
