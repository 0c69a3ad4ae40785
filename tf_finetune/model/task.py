"""The fine-tuned thing: tokenizer, backbone and head in one Keras model."""

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


@keras.saving.register_keras_serializable("tf_finetune")
class TextTask(keras_hub.models.Task):
    """A KerasHub task for texts or pairs of texts.

    Called on token ids it gives what users read: class probabilities (n, k),
    one score a label (n, k), or values (n, 1), always float32. `predict` also
    takes strings. The same layers are reachable as plain functional models:
    `encoder` (ids to one vector a text), `head` (that vector to logits), `network`
    (ids to logits), which is trained, and `scorer` (ids to what users read).

    Args:
        backbone: a `keras_hub.models.Backbone` over token ids.
        preprocessor: the `keras_hub` preprocessor that makes those ids.
        kind: `classification`, `multi_label` or `regression`.
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
        inputs, vector = backbone.input, _pool(backbone, pooling)
        # The head stays in float32 whatever the backbone computes in.
        layers = [
            keras.layers.Dropout(dropout, dtype="float32", name="head_dropout"),
            keras.layers.Dense(len(class_names), dtype="float32", name="logits"),
        ]
        if kind == "regression":
            layers.append(
                keras.layers.Rescaling(target_std, target_mean, dtype="float32", name="values")
            )
        logits = _chain(layers, vector)
        cooled = keras.layers.Rescaling(1 / temperature, dtype="float32", name="temperature")
        activate = heads.activation(kind)
        activation = keras.layers.Activation(activate, dtype="float32", name="probabilities")
        outputs = _chain([activation] if kind == "regression" else [cooled, activation], logits)
        self.backbone = backbone
        self.preprocessor = preprocessor
        super().__init__(inputs=inputs, outputs=outputs, compile=False, **kwargs)
        # Plain functional views of the same layers; not tracked, or every
        # variable would be saved several times.
        features = keras.Input(vector.shape[1:], name="features")
        self._views = _Hidden(
            encoder=keras.Model(inputs, vector, name="encoder"),
            head=keras.Model(features, _chain(layers, features), name="head"),
            network=keras.Model(inputs, logits, name="network"),
            scorer=keras.Model(inputs, outputs, name="scorer"),
        )
        self.kind = kind
        self.class_names = tuple(class_names)
        self.pooling, self.dropout, self.exact_gelu = pooling, dropout, exact_gelu
        self.target_mean, self.target_std = target_mean, target_std
        self.temperature = temperature

    def calibrate(self, temperature: float) -> None:
        """Divides the logits by this where they become probabilities; no choice changes.

        Args:
            temperature: above 0; above 1 makes the model less sure.

        Raises:
            ValueError: for regression, which has no probabilities.
        """
        if self.kind == "regression":
            raise ValueError("regression has no probabilities to calibrate")
        self.get_layer("temperature").scale = 1 / temperature
        self.temperature = temperature
        for model in (self, self.scorer):
            model.predict_function = None  # was traced with the former one

    @property
    def encoder(self) -> keras.Model:
        """Token ids to one float32 vector a text."""
        return self._views.models["encoder"]

    @property
    def head(self) -> keras.Model:
        """That vector to logits."""
        return self._views.models["head"]

    @property
    def network(self) -> keras.Model:
        """Token ids to logits: what is trained."""
        return self._views.models["network"]

    @property
    def scorer(self) -> keras.Model:
        """Token ids to probabilities, scores or values."""
        return self._views.models["scorer"]

    def __dir__(self) -> list[str]:
        # Keras saves what it finds here: with the views also their optimiser, which is
        # twice as large as the weights.
        return [name for name in super().__dir__() if name not in self._views.models]

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

    def copied(self) -> TextTask:
        """The same model with variables of its own, made under the strategy of the moment."""
        backbone = type(self.backbone).from_config(self.backbone.get_config())
        # The configuration of a tokenizer lacks its vocabulary.
        task = TextTask(backbone, self.preprocessor, name=self.name, **self._own_config())
        task.set_weights(self.get_weights())
        return task

    def get_config(self) -> dict:
        config = self._own_config()
        return {**super().get_config(), **config, "class_names": list(self.class_names)}

    def _own_config(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "class_names": self.class_names,
            "pooling": self.pooling,
            "dropout": self.dropout,
            "exact_gelu": self.exact_gelu,
            "target_mean": self.target_mean,
            "target_std": self.target_std,
            "temperature": self.temperature,
        }


def _chain(layers: Sequence[keras.layers.Layer], x: keras.KerasTensor) -> keras.KerasTensor:
    for layer in layers:
        x = layer(x)
    return x


class _Hidden:
    """Holds models where Keras does not look for layers to track."""

    def __init__(self, **models: keras.Model) -> None:
        self.models = models


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
    layer = heads.TokenPooling(pooling, name="pooling")
    return layer(named["sequence_output"], backbone.input["padding_mask"])
