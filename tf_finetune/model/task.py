"""A task on texts: tokenizer, backbone and head in one Keras model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import keras
import keras_hub
import numpy as np

from tf_finetune.data.text import encode, pad
from tf_finetune.errors import UserError
from tf_finetune.model import heads
from tf_finetune.model.fidelity import use_exact_gelu, use_graph_tokens
from tf_finetune.model.headed import HeadedTask

# In place of a pooling: the backbone's states of all tokens.
WHOLE = "none"


@keras.saving.register_keras_serializable("tf_finetune")
class TextTask(HeadedTask):
    """A KerasHub task for texts or pairs of texts.

    Called on token ids it gives what users read: class probabilities (n, k),
    one score a label (n, k), or values (n, 1), always float32. `predict` also
    takes strings. The same layers are reachable as plain functional models:
    `encoder` (ids to one vector a text), `head` (that vector to logits), `network`
    (ids to logits), which is trained, and `scorer` (ids to what users read).

    Args:
        backbone: a `keras_hub.models.Backbone` over token ids.
        preprocessor: the `keras_hub` preprocessor that makes those ids.
        kind: as `config.model.task`.
        class_names: what the k outputs stand for; one name for regression.
        pooling: `first`, `mean`, `max` or `backbone` (its own pooled output).
        dropout: rate in front of the last layer.
        exact_gelu: the checkpoint wants exact GELU; a KerasHub backbone does not
            keep this in its own configuration.
        target_mean: of the training targets; for regression the head's output is
            shifted and scaled by these, so that it starts where the data lies.
        target_std: of the training targets, above 0.
        temperature: what logits are divided by where they become probabilities; the
            trained views, `head` and `network`, are before it. See `calibrate`.

    Raises:
        UserError: if `pooling="backbone"` and the backbone has no pooled output.
    """

    column = "text"  # of a table, that `predict` takes

    def __init__(
        self,
        backbone: keras_hub.models.Backbone,
        preprocessor: keras_hub.models.Preprocessor | None,
        kind: str,
        class_names: Sequence[str],
        pooling: str = "mean",
        dropout: float = 0.1,
        exact_gelu: bool = False,
        target_mean: float = 0.0,
        target_std: float = 1.0,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if exact_gelu:
            use_exact_gelu(backbone)
        use_graph_tokens(preprocessor)
        super().__init__(
            backbone,
            preprocessor,
            backbone.input,
            _pool(backbone, pooling),
            kind=kind,
            class_names=class_names,
            dropout=dropout,
            target_mean=target_mean,
            target_std=target_std,
            temperature=temperature,
            **kwargs,
        )
        self.pooling, self.exact_gelu = pooling, exact_gelu

    def predict(self, x: Any, batch_size: int = 64, **kwargs: Any) -> np.ndarray:
        """Probabilities, scores or values for strings, or for anything Keras takes.

        Args:
            x: a list of n strings; for pairs a tuple of two such lists; or input
                that `keras.Model.predict` takes.
            batch_size: texts a step.
            **kwargs: for `keras.Model.predict` where `x` is not strings.

        Returns:
            A float32 array (n, k).
        """
        columns = _string_columns(x)
        if columns is None:
            return super().predict(x, batch_size=batch_size, **kwargs)
        if not columns[0]:
            return np.zeros((0, len(self.class_names)), "float32")
        rows = encode(cast(Any, self.preprocessor), *columns)
        order = np.argsort([row["token_ids"].size for row in rows], kind="stable")
        outputs = np.empty((len(rows), len(self.class_names)), "float32")
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids = pad(self.preprocessor, [rows[i] for i in chosen])
            outputs[chosen] = np.asarray(self(ids, training=False))
        return outputs

    def _own_config(self) -> dict[str, Any]:
        own = {"pooling": self.pooling, "exact_gelu": self.exact_gelu}
        return super()._own_config() | own


def _string_columns(x: Any) -> tuple[list[str], ...] | None:
    if isinstance(x, tuple) and len(x) == 2 and all(_is_strings(column) for column in x):
        return tuple(list(column) for column in x)
    return (list(x),) if _is_strings(x) else None


def _is_strings(x: Any) -> bool:
    if isinstance(x, np.ndarray):
        return x.ndim == 1 and x.dtype.kind in "UO"
    return isinstance(x, list | tuple) and all(isinstance(text, str) for text in x)


def _pool(backbone: keras_hub.models.Backbone, pooling: str) -> keras.KerasTensor:
    outputs = backbone.output
    named = outputs if isinstance(outputs, dict) else {"sequence_output": outputs}
    if pooling == "backbone":
        if "pooled_output" not in named:
            raise UserError(
                f'config.model.pooling is "backbone", but {type(backbone).__name__} has no '
                "pooled output; choose first, mean or max."
            )
        return named["pooled_output"]
    if pooling == WHOLE:
        return named["sequence_output"]
    layer = heads.TokenPooling(pooling, name="pooling")
    return layer(named["sequence_output"], backbone.input["padding_mask"])
