"""Rows as they are and changed versions of each, numbered as the rows of one store."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune.data.pipeline import Noise, Store


class ViewStore:
    """The rows of a store, and behind them some changed versions of all.

    Of n rows, row i + v * n is version v of row i; version 0 is the row as it is. How a row is
    changed follows from the seed and its number here, whatever batch it comes in.

    Args:
        store: of the n rows.
        noise: what changes them.
        views: changed versions of each.
        seed: of the changes.
    """

    def __init__(self, store: Store, noise: Noise, views: int, seed: int) -> None:
        self._store, self._noise, self._seed = store, noise, seed
        self._count, self.views = len(store.lengths), views
        self.lengths = np.tile(store.lengths, views + 1)
        if ahead := getattr(store, "ahead", 0):
            self.ahead = ahead

    def batch(self, rows: np.ndarray) -> Any:
        """The inputs of some rows, changed where they are versions."""
        inputs = self._store.batch(rows % self._count)
        places = np.flatnonzero(rows >= self._count)
        if not places.size:
            return inputs
        seeds = [
            int(np.random.SeedSequence([self._seed, row]).generate_state(1, np.uint64)[0])
            for row in rows[places].tolist()
        ]
        changed = self._noise.each(tf.nest.map_structure(lambda x: x[places], inputs), seeds)

        def put(given: np.ndarray, new: np.ndarray) -> np.ndarray:
            found = np.array(given)
            found[places] = new
            return found

        return tf.nest.map_structure(put, inputs, changed)

    def changed(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of all changed versions of some rows."""
        return np.concatenate([rows + v * self._count for v in range(1, self.views + 1)])

    def of_epoch(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        """The numbers of the versions of some rows whose turn it is."""
        return rows + (epoch % self.views + 1) * self._count
