"""What KerasHub's conversion of a Hugging Face checkpoint gets wrong, mended.

Every mend of the conversion stands here, named with its defect:

1. `use_exact_gelu`: KerasHub's BERT, ALBERT and ELECTRA compute the tanh
   approximation of GELU whatever the checkpoint's `hidden_act` says. Hidden states
   of MiniLM are off by 2.7e-3.
2. `own_tokenizer`: KerasHub's WordPiece tokenizers prepare text in their own way
   (see `tf_finetune.model.wordpiece`), and need the keys and files that older
   versions of Hugging Face's library wrote.
3. `refuse_unfaithful`: settings that the conversion passes over in silence are
   refused where the model would compute something else.

Not mended, because it moves hidden states by less than float32 rounding does in
practice: `layer_norm_eps`, which KerasHub fixes per family.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import keras_hub

from tf_finetune.errors import UserError
from tf_finetune.model.wordpiece import FaithfulBertTokenizer, FaithfulDistilBertTokenizer

_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh")
_WORDPIECE = {"bert": FaithfulBertTokenizer, "distilbert": FaithfulDistilBertTokenizer}


def use_exact_gelu(backbone: keras_hub.models.Backbone) -> None:
    """Replaces KerasHub's tanh-GELU by exact GELU in every layer of a backbone.

    KerasHub does not keep this in a backbone's configuration: do it again after
    the backbone was made from its configuration.
    """
    for layer in _tanh_gelu_layers(backbone):
        layer.activation = keras.activations.gelu


def mend_activation(backbone: keras_hub.models.Backbone, config: dict[str, Any]) -> bool:
    """Makes a converted backbone compute the activation that its checkpoint names.

    Args:
        backbone: as KerasHub converted it.
        config: the checkpoint's `config.json`.

    Returns:
        Whether tanh-GELU was replaced by exact GELU.
    """
    if _activation(config) != "gelu" or not any(_tanh_gelu_layers(backbone)):
        return False
    use_exact_gelu(backbone)
    return True


def refuse_unfaithful(folder: Path, config: dict[str, Any]) -> None:
    """Refuses a checkpoint that KerasHub would convert to another model.

    Raises:
        UserError: naming the setting of `config.json`.
    """
    activation = _activation(config)
    position = config.get("position_embedding_type", "absolute")
    for key, value, allowed in (
        ("hidden_act", activation, ("gelu", *_TANH_GELU)),
        ("position_embedding_type", position, ("absolute",)),
    ):
        if value not in allowed:
            raise UserError(
                f'config.model.preset: "{folder}/config.json" has {key} "{value}", which KerasHub '
                f"passes over: it would compute another model. Allowed: {', '.join(allowed)}."
            )


def own_tokenizer(folder: Path, config: dict[str, Any]) -> keras_hub.models.Tokenizer | None:
    """The tokenizer that cuts text as the checkpoint's own does.

    Args:
        folder: of the checkpoint.
        config: the checkpoint's `config.json`.

    Returns:
        The tokenizer, or None where KerasHub's own conversion is right.

    Raises:
        UserError: if the folder has no vocabulary.
    """
    settings = _read_json(folder / "tokenizer_config.json")
    cls = _WORDPIECE.get(config["model_type"])
    # Some BERT checkpoints (multilingual E5) come with a SentencePiece tokenizer.
    if cls is None or "XLMRoberta" in settings.get("tokenizer_class", ""):
        return None
    fast = _read_json(folder / "tokenizer.json")
    normalizer = fast.get("normalizer") or {}
    lowercase = normalizer.get("lowercase", settings.get("do_lower_case", True))
    strip = normalizer.get("strip_accents", settings.get("strip_accents"))
    return cls(
        _vocabulary(folder, fast),
        lowercase=lowercase,
        strip_accents=lowercase if strip is None else strip,
    )


def _vocabulary(folder: Path, fast: dict[str, Any]) -> list[str]:
    file = folder / "vocab.txt"
    if file.exists():
        return file.read_text("utf-8").rstrip("\n").split("\n")
    # Newer versions of Hugging Face's library write tokenizer.json alone.
    vocabulary = fast.get("model", {}).get("vocab")
    if not vocabulary:
        raise UserError(
            f'config.model.preset: "{folder}" has neither vocab.txt nor a tokenizer.json with a '
            "vocabulary; copy the tokenizer's files there too."
        )
    return sorted(vocabulary, key=vocabulary.get)


def _activation(config: dict[str, Any]) -> str:
    return config.get("hidden_act", config.get("activation", "gelu"))


def _tanh_gelu_layers(backbone: keras_hub.models.Backbone) -> Iterator[keras.layers.Layer]:
    for layer in backbone._flatten_layers():
        if getattr(getattr(layer, "activation", None), "__name__", "") == "gelu_approximate":
            yield layer


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8")) if file.exists() else {}
