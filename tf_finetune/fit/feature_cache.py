"""What is frozen below the head, run once over all rows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.data.pipeline import Store, evaluation_dataset, evaluation_order
from tf_finetune.fit.replicas import on_all_replicas


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


def outputs_of(
    model: keras.Model, store: Store, rows: np.ndarray, *, batch_size: int
) -> np.ndarray:
    """What a model gives in inference mode for some rows, in the order of `rows`.

    Batches hold texts of similar length, so that little padding is computed. Under a
    strategy each replica computes some rows of each batch, and every host gets all.
    """
    labels = np.zeros(int(rows.max()) + 1, "int8")
    dataset = evaluation_dataset(store, labels, rows, batch_size=batch_size)
    # Traced once for all shapes: `model.predict` would trace anew for several of them.
    step = tf.function(
        on_all_replicas(lambda x: model(x, training=False)),
        input_signature=[dataset.element_spec[0]],
        autograph=False,
    )
    found = np.concatenate([step(x).numpy() for x, _ in dataset])
    outputs = np.empty_like(found)
    outputs[evaluation_order(store, rows)] = found
    return outputs


def cache_features(
    encoder: keras.Model, store: Store, rows: np.ndarray, *, batch_size: int
) -> FeatureStore:
    """Runs a frozen encoder once over some rows.

    The encoder runs in inference mode: no dropout below the head.

    Args:
        encoder: from a store's batches to (n, width).
        store: of the run.
        rows: those that will be asked for; others read as zeros.
        batch_size: rows a step.
    """
    found = outputs_of(encoder, store, rows, batch_size=batch_size)
    features: Any = np.zeros((len(store.lengths), found.shape[1]), "float32")
    features[rows] = found
    return FeatureStore(features)
