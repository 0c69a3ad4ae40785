"""BERT and DistilBERT classifiers computed by NumPy from a Hugging Face folder.

Written from the checkpoint's own names and settings, this shows that a folder means what
the model means, with neither TensorFlow nor torch.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
import tokenizers

from tf_finetune.exports.hugging_face_names import NAMES


class Classifier:
    """A classifier in a folder with `config.json` and `model.safetensors`."""

    def __init__(self, folder: str) -> None:
        self._config = json.loads(Path(folder, "config.json").read_text("utf-8"))
        self._tensors = safetensors.numpy.load_file(Path(folder, "model.safetensors"))
        family = self._config["model_type"]
        self._names, self._bert = NAMES[family], family == "bert"
        distil = {"heads": "n_heads", "layers": "n_layers", "activation": "activation"}
        bert = {
            "heads": "num_attention_heads",
            "layers": "num_hidden_layers",
            "activation": "hidden_act",
        }
        self._setting = {k: self._config[v] for k, v in (bert if self._bert else distil).items()}

    def logits_and_outputs(self, ids: dict[str, np.ndarray]) -> np.ndarray:
        """(1, 2k) of one text, from its ids (1, length): logits, then what users read."""
        logits = self.logits(ids)
        problem = self._config["problem_type"]
        if problem == "multi_label_classification":
            outputs = 1 / (1 + np.exp(-logits))
        elif problem == "regression":
            outputs = logits
        else:
            powers = np.exp(logits - logits.max())
            outputs = powers / powers.sum()
        return np.concatenate([logits, outputs], axis=1)

    def logits(self, ids: dict[str, np.ndarray]) -> np.ndarray:
        """The logits (1, k) of one text, or its value."""
        tokens = ids["token_ids"][0]
        x = self._weight("words")[tokens] + self._weight("positions")[: len(tokens)]
        if self._bert:
            x = x + self._weight("segments")[ids["segment_ids"][0]]
        x = self._norm("embeddings_norm", x)
        for i in range(self._setting["layers"]):
            x = self._norm("attention_norm", x + self._attention(x, i), i)
            inner = _activation(self._setting["activation"], self._dense("inner", x, i))
            x = self._norm("norm", x + self._dense("outer", inner, i), i)
        pooled = self._dense("pooler", x[:1])
        pooled = np.tanh(pooled) if self._bert else np.maximum(pooled, 0)
        return self._dense("classifier", pooled)

    def _attention(self, x: np.ndarray, i: int) -> np.ndarray:
        query, key, value = (
            self._dense(part, x, i).reshape(len(x), self._setting["heads"], -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = powers / powers.sum(axis=-1, keepdims=True) @ value
        return self._dense("attended", mixed.transpose(1, 0, 2).reshape(len(x), -1), i)

    def _weight(self, part: str, i: int = 0, kind: str = "weight") -> np.ndarray:
        return self._tensors[f"{self._names[part].format(i)}.{kind}"]

    def _dense(self, part: str, x: np.ndarray, i: int = 0) -> np.ndarray:
        return x @ self._weight(part, i).T + self._weight(part, i, "bias")

    def _norm(self, part: str, x: np.ndarray, i: int = 0) -> np.ndarray:
        # DistilBERT's is fixed in transformers.
        epsilon = self._config.get("layer_norm_eps", 1e-12)
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
        return centred / spread * self._weight(part, i) + self._weight(part, i, "bias")


def same_tokens(folder: str, texts: Sequence[str], ids: np.ndarray) -> bool:
    """Whether the folder's `tokenizer.json` cuts a text, or two, into these tokens."""
    first, second = texts if len(texts) > 1 else (*texts, None)
    return _tokenizer(folder).encode(first, second).ids == ids.tolist()


@functools.cache
def _tokenizer(folder: str) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")


def _activation(name: str, x: np.ndarray) -> np.ndarray:
    if name == "gelu_new":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _erf(x: np.ndarray) -> np.ndarray:
    # NumPy has none; between points so near each other a line is right to 1e-8.
    points, values = _erf_table()
    return np.interp(x, points, values).astype("float32")


@functools.cache
def _erf_table() -> tuple[np.ndarray, np.ndarray]:
    points = np.linspace(-6, 6, 60_001)
    return points, np.array([math.erf(point) for point in points])
