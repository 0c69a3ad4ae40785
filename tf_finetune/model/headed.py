"""A pretrained backbone with a head of its own, in one Keras model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import keras
import keras_hub

from tf_finetune.model import heads


class HeadedTask(keras_hub.models.Task):
    """What tasks on texts and on pictures share; see `TextTask` and `ImageTask`.

    The same layers are reachable as plain functional models: `encoder` (inputs to one
    vector each), `head` (that vector to logits), `network` (inputs to logits), which is
    trained, and `scorer` (inputs to what users read).

    Args:
        backbone: the pretrained part.
        preprocessor: a `keras_hub` preprocessor; None where there is none.
        inputs: what the whole takes, symbolic.
        vector: float (n, width), what the backbone makes of it; (n, tokens, width) for labels
            of tokens.
        kind: as `config.model.task`.
        class_names: what the k outputs stand for; one name for regression.
        dropout: rate in front of the last layer.
        target_mean: of the training targets; for regression the head's output is
            shifted and scaled by these, so that it starts where the data lies.
        target_std: of the training targets, above 0.
        temperature: as in `calibrate`.

    Attributes:
        one_vector: what the backbone makes of a row is one vector, not one for each token.
        words: the mean number of labels of a row.
        soft: what it trains on are shares of classes.
    """

    one_vector, words, soft = True, 1.0, False

    def __init__(
        self,
        backbone: keras.Model,
        preprocessor: keras_hub.models.Preprocessor | None,
        inputs: Any,
        vector: keras.KerasTensor,
        *,
        kind: str,
        class_names: Sequence[str],
        dropout: float,
        target_mean: float,
        target_std: float,
        temperature: float,
        **kwargs: Any,
    ) -> None:
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
        self.dropout = dropout
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
        """Inputs to one float32 vector each."""
        return self._views.models["encoder"]

    @property
    def head(self) -> keras.Model:
        """That vector to logits."""
        return self._views.models["head"]

    @property
    def network(self) -> keras.Model:
        """Inputs to logits: what is trained."""
        return self._views.models["network"]

    @property
    def scorer(self) -> keras.Model:
        """Inputs to probabilities, scores or values."""
        return self._views.models["scorer"]

    def __dir__(self) -> list[str]:
        # Keras saves what it finds here: with the views also their optimiser, which is
        # twice as large as the weights.
        return [name for name in super().__dir__() if name not in self._views.models]

    def copied(self) -> Self:
        """The same model with variables of its own, made under the strategy of the moment."""
        backbone = type(self.backbone).from_config(self.backbone.get_config())
        # The configuration of a tokenizer lacks its vocabulary.
        task = type(self)(backbone, self.preprocessor, name=self.name, **self._own_config())
        task.set_weights(self.get_weights())
        return task

    def get_config(self) -> dict:
        config = self._own_config()
        return {**super().get_config(), **config, "class_names": list(self.class_names)}

    def _own_config(self) -> dict[str, Any]:
        """What `__init__` takes beside backbone and preprocessor."""
        return {
            "kind": self.kind,
            "class_names": self.class_names,
            "dropout": self.dropout,
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
