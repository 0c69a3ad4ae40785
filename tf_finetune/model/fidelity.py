"""What KerasHub's conversion of a Hugging Face checkpoint gets wrong, mended.

Every mend of the conversion stands here, named with its defect:

1. `use_exact_gelu`: KerasHub's BERT, ALBERT and ELECTRA compute the tanh
   approximation of GELU whatever the checkpoint's `hidden_act` says. Hidden states
   of MiniLM are off by 2.9e-3.
2. `own_tokenizer`: KerasHub's WordPiece tokenizers prepare text in their own way
   (see `tf_finetune.model.wordpiece`), and need the keys and files that older
   versions of Hugging Face's library wrote.
3. `adapted`: KerasHub drops the token-type row that Hugging Face's RoBERTa adds to
   every token, wants ALBERT, DistilBERT and RoBERTa saved with a head (names that
   begin with "roberta."), and BERT and ALBERT with a pooler, which masked language
   models lack.
4. `use_graph_tokens`: KerasHub's byte-pair tokenizers (RoBERTa) split words by
   another rule when called eagerly than inside a graph, in 2.5% of real texts. The
   graph's rule is the checkpoint's, but for no-break spaces.
5. `refuse_unfaithful`: settings that the conversion passes over in silence are
   refused where the model would be another one.
6. `warn_of_epsilon`: a `layer_norm_eps` that differs from the one KerasHub fixes for
   the family is not mended; on random weights it moved hidden states by 2e-4.
"""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.model.wordpiece import FaithfulBertTokenizer, FaithfulDistilBertTokenizer

_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh")
_HEADED = ("albert", "distilbert", "roberta")
_POOLERS = {"albert": "pooler", "bert": "pooler.dense"}
_WORDS = "embeddings.word_embeddings.weight"
_WORDPIECE = {"bert": FaithfulBertTokenizer, "distilbert": FaithfulDistilBertTokenizer}


def use_exact_gelu(backbone: keras_hub.models.Backbone) -> None:
    """Replaces KerasHub's tanh-GELU by exact GELU in every layer of a backbone.

    KerasHub does not keep this in a backbone's configuration: do it again after
    the backbone was made from its configuration.
    """
    for layer in _tanh_gelu_layers(backbone):
        layer.activation = _exact_gelu


@keras.saving.register_keras_serializable("tf_finetune")
def _exact_gelu(x: Any) -> Any:
    # By erf in float32, as PyTorch computes it: TensorFlow's own goes by erfc, which in
    # bfloat16 takes 2.5 times as long, and 15% of a training step.
    return _gelu(keras.ops.convert_to_tensor(x))


@tf.custom_gradient
def _gelu(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    wide = tf.cast(x, tf.float32)
    twice_below = 1.0 + tf.math.erf(wide * 0.5**0.5)

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        # What `tf.gradients` makes of the lines above passes over the widest activations
        # of the network twice as often: 3% of a training step.
        slope = 0.5 * twice_below + wide * tf.exp(-0.5 * wide * wide) * (2 * math.pi) ** -0.5
        return tf.cast(tf.cast(upstream, tf.float32) * slope, x.dtype)

    # In this order LiteRT's converter knows it as its own GELU; it has no erf.
    return tf.cast(0.5 * wide * twice_below, x.dtype), gradient


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
    for key, value, allowed in (
        ("hidden_act", _activation(config), ("gelu", *_TANH_GELU)),
        (
            "position_embedding_type",
            config.get("position_embedding_type", "absolute"),
            ("absolute",),
        ),
    ):
        if value not in allowed:
            raise UserError(
                f'config.model.preset: "{folder}/config.json" has {key} "{value}", which KerasHub '
                f"passes over: it would compute another model. Allowed: {', '.join(allowed)}."
            )


def warn_of_epsilon(backbone: keras_hub.models.Backbone, config: dict[str, Any]) -> None:
    """Warns if the backbone's layer normalisation is not quite the checkpoint's."""
    norm = keras.layers.LayerNormalization
    used = {layer.epsilon for layer in backbone._flatten_layers() if isinstance(layer, norm)}
    wanted = config.get("layer_norm_eps")
    if wanted is not None and used - {wanted}:
        warnings.warn(
            f"The checkpoint's layer_norm_eps is {wanted}, KerasHub computes with "
            f"{', '.join(map(str, sorted(used)))}: hidden states differ slightly.",
            stacklevel=2,
        )


def adapted(folder: Path, config: dict[str, Any], files: Sequence[Path], scratch: Path) -> Path:
    """The checkpoint in the form that KerasHub's conversion reads rightly.

    Args:
        folder: of the checkpoint.
        config: its `config.json`.
        files: its safetensors files.
        scratch: an empty folder for a changed copy.

    Returns:
        `folder` itself where nothing is to change, else `scratch`.
    """
    family, names = config["model_type"], _tensor_names(files)
    bare = family in _HEADED and not any(name.startswith(f"{family}.") for name in names)
    pooler = _POOLERS.get(family)
    unpooled = pooler and not any(name.endswith(f"{pooler}.weight") for name in names)
    if not (bare or unpooled or family == "roberta"):
        return folder
    tensors = {
        f"{family}.{name}" if bare else name: tensor
        for file in files
        for name, tensor in safetensors.numpy.load_file(file).items()
    }
    base = next(name for name in tensors if name.endswith(_WORDS)).removesuffix(_WORDS)
    if unpooled:
        warnings.warn(
            f'"{folder}" has no pooler: the backbone\'s own pooled output starts untrained.',
            stacklevel=2,
        )
        size, spread = config["hidden_size"], config.get("initializer_range", 0.02)
        weight = np.random.default_rng(0).normal(0, spread, (size, size)).astype("float32")
        tensors[f"{base}{pooler}.weight"] = weight
        tensors[f"{base}{pooler}.bias"] = np.zeros(size, "float32")
    types = tensors.get(f"{base}embeddings.token_type_embeddings.weight")
    if family == "roberta" and types is not None:
        positions = f"{base}embeddings.position_embeddings.weight"
        tensors[positions] = tensors[positions] + types[0]
    safetensors.numpy.save_file(tensors, scratch / "model.safetensors")
    for pattern in ("*.json", "*.txt", "*.model"):
        for file in folder.glob(pattern):
            shutil.copy(file, scratch)
    (scratch / "model.safetensors.index.json").unlink(missing_ok=True)
    return scratch


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
    fast = _read_json(folder / "tokenizer.json")
    if config["model_type"] == "roberta":
        return _byte_pair(folder, fast)
    cls = _WORDPIECE.get(config["model_type"])
    # Some BERT checkpoints (multilingual E5) come with a SentencePiece tokenizer.
    if cls is None or "XLMRoberta" in settings.get("tokenizer_class", ""):
        return None
    normalizer = fast.get("normalizer") or {}
    lowercase = normalizer.get("lowercase", settings.get("do_lower_case", True))
    strip = normalizer.get("strip_accents", settings.get("strip_accents"))
    return cls(
        _vocabulary(folder, fast),
        lowercase=lowercase,
        strip_accents=lowercase if strip is None else strip,
    )


def use_graph_tokens(preprocessor: keras_hub.models.Preprocessor) -> None:
    """Makes an eager call of a preprocessor give the tokens that its graph gives.

    Like `use_exact_gelu` this is not kept in a saved configuration.
    """
    tokenizer = getattr(preprocessor, "tokenizer", None)
    if isinstance(tokenizer, keras_hub.tokenizers.BytePairTokenizer):
        tokenizer._allow_python_workflow = False


def _byte_pair(folder: Path, fast: dict[str, Any]) -> keras_hub.models.Tokenizer | None:
    # Newer versions of Hugging Face's library write tokenizer.json alone.
    model = fast.get("model", {})
    if (folder / "vocab.json").exists() or not model.get("merges"):
        return None
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return keras_hub.models.RobertaTokenizer(model["vocab"], merges)


def _vocabulary(folder: Path, fast: dict[str, Any]) -> list[str]:
    file = folder / "vocab.txt"
    if file.exists():
        return file.read_text("utf-8").rstrip("\n").split("\n")
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


def _tensor_names(files: Sequence[Path]) -> list[str]:
    names = []
    for file in files:
        with safetensors.safe_open(file, "numpy") as opened:
            names += opened.keys()
    return names


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text("utf-8")) if file.exists() else {}
