"""Loss and metric of token classification: one label a word, at its first piece."""

from __future__ import annotations

import keras
from keras import ops

# Twice so many pieces as this, a power of two, are more than any backbone takes.
_HALF = 2**14


@keras.saving.register_keras_serializable("tf_finetune")
class WordCrossentropy(keras.losses.Loss):
    """The cross-entropies of a row's words, added up, in units of the mean number of words.

    So each word weighs the same, whatever its row and its batch, and what parts of a batch
    come to can be added up. Labels are (n, pieces), -1 where no word begins; outputs are
    logits (n, pieces, k).

    Args:
        words: the mean number of words of a row.
        label_smoothing: share of the target spread over all classes.
    """

    def __init__(self, words: float = 1.0, label_smoothing: float = 0.0, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.words, self.label_smoothing = words, label_smoothing

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """(n,), a number for each row."""
        begins = ops.cast(y_true >= 0, y_pred.dtype)
        targets = ops.one_hot(
            ops.cast(ops.maximum(y_true, 0), "int32"), y_pred.shape[-1], dtype=y_pred.dtype
        )
        each = keras.losses.categorical_crossentropy(
            targets, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )
        return ops.sum(each * begins, axis=1) / self.words

    def get_config(self) -> dict:
        own = {"words": self.words, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("tf_finetune")
class SpanF1(keras.metrics.Metric):
    """F1 of whole entities: those are right whose beginning, end and type are.

    Takes what `WordCrossentropy` takes. Tags are numbered as by `tag_names`; an I- that
    nothing begins begins an entity, as for `seqeval`.
    """

    def __init__(self, name: str = "f1", **kwargs: object) -> None:
        super().__init__(name=name, **kwargs)
        names = ("right", "true", "chosen")
        self._counts = [
            self.add_variable(shape=(), initializer="zeros", name=one, aggregation="sum")
            for one in names
        ]

    def update_state(
        self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor, sample_weight: object = None
    ) -> None:
        """Adds the entities of some rows."""
        self._add(*_words(y_true, y_pred))

    def _add(
        self, true_codes: keras.KerasTensor, codes: keras.KerasTensor, begins: keras.KerasTensor
    ) -> None:
        (true, start, end), (chosen, other_start, other_end) = map(_spans, (true_codes, codes))
        same_kind = (true_codes - 1) // 2 == (codes - 1) // 2
        same = end & other_end & (start == other_start) & same_kind
        for count, found in zip(self._counts, (same, true, chosen), strict=True):
            count.assign_add(ops.sum(ops.cast(found, count.dtype)))

    def result(self) -> keras.KerasTensor:
        right, true, chosen = (ops.convert_to_tensor(count) for count in self._counts)
        return 2 * right / ops.maximum(true + chosen, 1.0)


@keras.saving.register_keras_serializable("tf_finetune")
class TagScore(SpanF1):
    """The mean of `SpanF1` and the share of words with the right tag.

    F1 alone is 0 as long as a head that trains gives O to every word, and by chance above that
    before it has trained.
    """

    def __init__(self, name: str = "score", **kwargs: object) -> None:
        super().__init__(name=name, **kwargs)
        self._words = [
            self.add_variable(shape=(), initializer="zeros", name=one, aggregation="sum")
            for one in ("right_words", "words")
        ]

    def _add(
        self, true_codes: keras.KerasTensor, codes: keras.KerasTensor, begins: keras.KerasTensor
    ) -> None:
        super()._add(true_codes, codes, begins)
        for count, found in zip(self._words, (begins & (true_codes == codes), begins), strict=True):
            count.assign_add(ops.sum(ops.cast(found, count.dtype)))

    def result(self) -> keras.KerasTensor:
        right, words = (ops.convert_to_tensor(count) for count in self._words)
        return (super().result() + right / ops.maximum(words, 1.0)) / 2


def _words(y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> tuple[keras.KerasTensor, ...]:
    """True and chosen codes of words side by side, O behind them, and where words are."""
    begins = ops.cast(y_true, "int32") >= 0
    place = ops.cumsum(ops.ones_like(begins, dtype="int32"), axis=1)
    order = ops.argsort(ops.where(begins, place, place + 2 * _HALF), axis=1)
    begins = ops.take_along_axis(begins, order, axis=1)
    codes = (ops.cast(y_true, "int32"), ops.cast(ops.argmax(y_pred, axis=-1), "int32"))
    true, chosen = (ops.where(begins, ops.take_along_axis(c, order, axis=1), 0) for c in codes)
    return true, chosen, begins


def _spans(
    codes: keras.KerasTensor,
) -> tuple[keras.KerasTensor, keras.KerasTensor, keras.KerasTensor]:
    """Where entities begin, the place where that of each word began, and where they end."""
    kind = (codes - 1) // 2  # below 0 outside
    before = ops.pad(kind[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
    begins = (codes > 0) & ((codes % 2 == 1) | (before != kind))
    place = ops.cumsum(ops.ones_like(codes), axis=1)
    start = ops.where(begins, place, 0)
    shift = 1
    while shift <= _HALF:  # the largest so far, in steps that double
        width = ops.shape(start)[1]
        start = ops.maximum(start, ops.pad(start, [[0, 0], [shift, 0]])[:, :width])
        shift *= 2
    after = ops.pad(codes[:, 1:], [[0, 0], [0, 1]])
    following = ops.pad(ops.cast(begins[:, 1:], "int32"), [[0, 0], [0, 1]])
    ends = (codes > 0) & ((after == 0) | (following == 1))
    return begins, start, ends
