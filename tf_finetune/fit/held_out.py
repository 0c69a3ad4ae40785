"""What a network gives for rows that are not trained on."""

from __future__ import annotations

import keras
import numpy as np

from tf_finetune.data.pieces import PieceStore
from tf_finetune.data.pipeline import Store
from tf_finetune.data.responses import ResponseStore
from tf_finetune.fit.feature_cache import outputs_of, outputs_of_words, surprise_of_responses
from tf_finetune.model import heads

# What a model gives for the rows of a split, by the split's name; where words have labels, for
# those that it sees, row by row; of a language model `surprise_of_responses`.
Scores = dict[str, np.ndarray]


def held_out(
    model: keras.Model, store: Store, splits: dict[str, np.ndarray], batch_size: int
) -> Scores:
    """What a model gives for all splits but the training one, in one pass."""
    held = {name: rows for name, rows in splits.items() if name != "train"}
    rows = np.concatenate(list(held.values()))
    if isinstance(store, PieceStore):
        found = outputs_of_words(model, store, rows, batch_size=batch_size)
        sizes = [sum(len(store.seen(row)) for row in rows) for rows in held.values()]
    elif isinstance(store, ResponseStore):
        found = surprise_of_responses(model, store, rows, batch_size=batch_size)
        sizes = [len(rows) for rows in held.values()]
    else:
        found = outputs_of(model, store, rows, batch_size=batch_size)
        sizes = [len(rows) for rows in held.values()]
    ends = np.cumsum(sizes)[:-1]
    return dict(zip(held, np.split(found, ends), strict=True))


def activated(kind: str, logits: Scores) -> Scores:
    """The same as users read it: probabilities or values, by the task's kind."""
    activate = keras.activations.get(heads.activation(kind))
    return {name: np.asarray(activate(found)) for name, found in logits.items()}
