"""What is frozen below the head, run once over all rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.data.pieces import PieceStore
from tf_finetune.data.pipeline import Store, evaluation_dataset, evaluation_order
from tf_finetune.data.responses import ResponseLabels, ResponseStore
from tf_finetune.fit.replicas import on_all_replicas
from tf_finetune.model.responses import right, surprise


class FeatureStore:
    """One vector a row, in memory, standing in for the row's tokens.

    Args:
        features: float32 (n, width).
    """

    def __init__(self, features: np.ndarray) -> None:
        self._features = features
        self.lengths = np.ones(len(features), "int64")

    def batch(self, rows: np.ndarray) -> np.ndarray:
        """The features (len(rows), width) of some rows."""
        return self._features[rows]


def at_rows(found: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """What was found for some rows, (len(rows), width), at their places among `count`.

    Other rows, which nobody will ask for, read as zeros.
    """
    features = np.zeros((count, found.shape[1]), "float32")
    features[rows] = found
    return features


def outputs_of(
    model: keras.Model, store: Store, rows: np.ndarray, *, batch_size: int
) -> np.ndarray:
    """What a model gives in inference mode for some rows, in the order of `rows`.

    Batches hold texts of similar length, so that little padding is computed. Under a
    strategy each replica computes some rows of each batch, and every host gets all.
    """
    return _in_order(store, rows, np.concatenate([*batches_of(model, store, rows, batch_size)]))


def outputs_of_words(
    model: keras.Model, store: PieceStore, rows: np.ndarray, *, batch_size: int
) -> np.ndarray:
    """The same of a model that gives (rows, pieces, k), for the words that it sees.

    Returns:
        (words, k), those of the first row first.
    """
    order = evaluation_order(store, rows)
    found: list[np.ndarray] = []
    for outputs in batches_of(model, store, rows, batch_size):
        for output in outputs:
            begins = store.begins(rows[order[len(found)]])
            found.append(output[: len(begins)][begins >= 0])
    return np.concatenate([found[i] for i in np.argsort(order)])


def surprise_of_responses(
    model: keras.Model, store: ResponseStore, rows: np.ndarray, *, batch_size: int
) -> np.ndarray:
    """The same of a language model that gives logits, for the responses of rows.

    Returns:
        float32 (len(rows), 3): minus the log probabilities of a row's response tokens added
        up, how many of these are the most probable ones, and how many there are.
    """
    labels: Any = ResponseLabels(store)
    dataset = evaluation_dataset(store, labels, rows, batch_size=batch_size)

    @tf.function(input_signature=dataset.element_spec, autograph=False)
    def counted(x: Any, y: tf.Tensor) -> tf.Tensor:
        logits = model(x, training=False)
        parts = surprise(y, logits), right(y, logits), tf.cast(y >= 0, tf.float32)
        return tf.stack([tf.reduce_sum(part, axis=1) for part in parts], axis=1)

    return _in_order(store, rows, np.concatenate([counted(x, y).numpy() for x, y in dataset]))


def _in_order(store: Store, rows: np.ndarray, found: np.ndarray) -> np.ndarray:
    """What was found in the order of evaluation, in that of `rows`."""
    outputs = np.empty_like(found)
    outputs[evaluation_order(store, rows)] = found
    return outputs


def batches_of(
    model: keras.Model, store: Store, rows: np.ndarray, batch_size: int
) -> Iterator[np.ndarray]:
    """The same batch by batch, in the order of `evaluation_order`."""
    labels = np.zeros(int(rows.max()) + 1, "int8")
    dataset = evaluation_dataset(store, labels, rows, batch_size=batch_size)
    # Traced once for all shapes: `model.predict` would trace anew for several of them.
    step = tf.function(
        on_all_replicas(lambda x: model(x, training=False)),
        input_signature=[dataset.element_spec[0]],
        autograph=False,
    )
    for x, _ in dataset:
        yield step(x).numpy()
