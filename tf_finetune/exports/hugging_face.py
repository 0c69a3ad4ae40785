"""A Hugging Face folder of a BERT or DistilBERT classifier, written without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import safetensors.numpy

from tf_finetune.data.text import encode, pad
from tf_finetune.errors import UserError
from tf_finetune.exports.hugging_face_names import NAMES
from tf_finetune.exports.hugging_face_tokenizer import is_word_piece, write_json, write_tokenizer
from tf_finetune.exports.parity import expected_outputs

TOLERANCE = 1e-4
RUN = """
from tf_finetune.exports.numpy_bert import Classifier, same_tokens
classifier = Classifier(path)
facts["other_tokens"] = sum(
    not same_tokens(path, texts(i), inputs(i)["token_ids"][0]) for i in range(len(columns[0]))
)
run = lambda i: classifier.logits_and_outputs(inputs(i))
"""
_NAME = 'config.results.formats names "hugging_face"'
_PROBLEMS = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
_BLOCK = {
    "query": "_self_attention_layer.query_dense",
    "key": "_self_attention_layer.key_dense",
    "value": "_self_attention_layer.value_dense",
    "attended": "_self_attention_layer.output_dense",
    "attention_norm": "_self_attention_layer_norm",
    "inner": "_feedforward_intermediate_dense",
    "outer": "_feedforward_output_dense",
    "norm": "_feedforward_layer_norm",
}


def expected(model: Any, columns: Sequence[Sequence[str]]) -> np.ndarray:
    """What `RUN` must give: logits beside outputs, (n, 2k)."""
    rows = encode(model.preprocessor, *columns)
    logits = [np.asarray(model.network(pad(model.preprocessor, [row]))) for row in rows]
    calibrated = np.concatenate(logits) / model.temperature
    return np.concatenate([calibrated, expected_outputs(model, columns)], axis=1)


def check(model: Any) -> None:
    """Refuses a model that is none of transformers' sequence classifiers.

    Raises:
        UserError: saying what is not expressible, and what would be.
    """
    backbone = model.backbone
    family, pooling = _family(backbone), _pooling(backbone)
    if family is None:
        raise UserError(
            f"{_NAME}, but the backbone is a {type(backbone).__name__}; only BERT and DistilBERT "
            'classifiers can be written so far. Leave "hugging_face" out.'
        )
    if model.pooling != pooling:
        raise UserError(
            f'{_NAME}, but config.model.pooling is "{model.pooling}", which transformers\' '
            f"classifier of this family cannot compute: it looks at the first token alone. Set "
            f'config.model.pooling="{pooling}" and train again, or leave "hugging_face" out.'
        )
    if not is_word_piece(model.preprocessor):
        raise UserError(
            f"{_NAME}, but the tokenizer is a {type(model.preprocessor.tokenizer).__name__}; only "
            'BERT\'s own WordPiece can be written so far. Leave "hugging_face" out.'
        )


def write(model: Any, path: Path) -> None:
    """Writes `config.json`, `model.safetensors` and the tokenizer's files.

    `transformers.AutoModelForSequenceClassification.from_pretrained(path)` reads them.
    """
    tensors = {name: np.ascontiguousarray(t, "float32") for name, t in _tensors(model).items()}
    safetensors.numpy.save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    write_json(path / "config.json", _config(model))
    write_tokenizer(model.preprocessor, path)
    tokenizer = model.preprocessor.tokenizer
    settings, bert = tokenizer.get_config(), _family(model.backbone) == "bert"
    vocabulary = "\n".join(tokenizer.get_vocabulary())
    (path / "vocab.txt").write_text(vocabulary + "\n", encoding="utf-8")
    write_json(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": f"{'Bert' if bert else 'DistilBert'}Tokenizer",
            # DistilBERT has no segments, and is called with no more than it takes.
            "model_input_names": [
                "input_ids",
                *(["token_type_ids"] if bert else []),
                "attention_mask",
            ],
            "do_lower_case": bool(settings["lowercase"]),
            "strip_accents": bool(settings["strip_accents"]),
            "model_max_length": model.preprocessor.sequence_length,
            "cls_token": tokenizer.cls_token,
            "sep_token": tokenizer.sep_token,
            "pad_token": tokenizer.pad_token,
            "mask_token": tokenizer.mask_token,
            "unk_token": tokenizer.oov_token,
        },
    )


def _family(backbone: Any) -> str | None:
    kinds = {
        keras_hub.models.BertBackbone: "bert",
        keras_hub.models.DistilBertBackbone: "distilbert",
    }
    return kinds.get(type(backbone))


def _pooling(backbone: Any) -> str:
    """The one that transformers' classifier computes."""
    return "backbone" if _family(backbone) == "bert" else "first"


def _config(model: Any) -> dict[str, Any]:
    backbone, bert = model.backbone, _family(model.backbone) == "bert"
    sizes = {
        "hidden_size": backbone.hidden_dim,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_heads,
        "intermediate_size": backbone.intermediate_dim,
        "hidden_act": _activation(model),
        "hidden_dropout_prob": backbone.dropout,
        "attention_probs_dropout_prob": backbone.dropout,
        "type_vocab_size": getattr(backbone, "num_segments", None),
        "layer_norm_eps": backbone.get_layer("embeddings_layer_norm").epsilon,
        "classifier_dropout": model.dropout,
        "position_embedding_type": "absolute",
    }
    distil = {
        "dim": backbone.hidden_dim,
        "n_layers": backbone.num_layers,
        "n_heads": backbone.num_heads,
        "hidden_dim": backbone.intermediate_dim,
        "activation": _activation(model),
        "dropout": backbone.dropout,
        "attention_dropout": backbone.dropout,
        "seq_classif_dropout": model.dropout,
        "sinusoidal_pos_embds": False,
    }
    return {
        "architectures": [f"{'Bert' if bert else 'DistilBert'}ForSequenceClassification"],
        "model_type": _family(backbone),
        **(sizes if bert else distil),
        "vocab_size": backbone.vocabulary_size,
        "max_position_embeddings": backbone.max_sequence_length,
        "pad_token_id": model.preprocessor.tokenizer.pad_token_id,
        "initializer_range": 0.02,
        "problem_type": _PROBLEMS[model.kind],
        "id2label": {str(i): name for i, name in enumerate(model.class_names)},
        "label2id": {name: i for i, name in enumerate(model.class_names)},
        "torch_dtype": "float32",
    }


def _activation(model: Any) -> str:
    # KerasHub's own GELU is the approximation by tanh.
    return "gelu" if model.exact_gelu or _family(model.backbone) == "distilbert" else "gelu_new"


def _tensors(model: Any) -> dict[str, np.ndarray]:
    backbone = model.backbone
    names, found = NAMES[_family(backbone) or ""], {}
    for part, values in _embeddings(backbone).items():
        found[f"{names[part]}.weight"] = values
    found |= _pair(names["embeddings_norm"], backbone.get_layer("embeddings_layer_norm"))
    for i in range(backbone.num_layers):
        block = backbone.get_layer(f"transformer_layer_{i}")
        for part, place in _BLOCK.items():
            layer = block
            for attribute in place.split("."):
                layer = getattr(layer, attribute)
            outputs = backbone.intermediate_dim if part == "inner" else backbone.hidden_dim
            found |= _pair(names[part].format(i), layer, outputs)
    pooler, kernel, bias = _head(model)
    found |= {f"{names['pooler']}.{name}": values for name, values in pooler.items()}
    found |= {f"{names['classifier']}.weight": kernel.T, f"{names['classifier']}.bias": bias}
    return found


def _embeddings(backbone: Any) -> dict[str, np.ndarray]:
    if _family(backbone) == "bert":
        layers = {
            "words": backbone.get_layer("token_embedding").embeddings,
            "positions": backbone.get_layer("position_embedding").position_embeddings,
            "segments": backbone.get_layer("segment_embedding").embeddings,
        }
    else:
        both = backbone.get_layer("token_and_position_embedding")
        layers = {
            "words": both.token_embedding.embeddings,
            "positions": both.position_embedding.position_embeddings,
        }
    return {part: variable.numpy() for part, variable in layers.items()}


def _pair(name: str, layer: Any, outputs: int = 0) -> dict[str, np.ndarray]:
    """Weight and bias of a dense layer, as (outputs, inputs), or of a normalisation."""
    if hasattr(layer, "gamma"):
        return {f"{name}.weight": layer.gamma.numpy(), f"{name}.bias": layer.beta.numpy()}
    # An attention's kernels have an axis for its heads: among the outputs, or last among
    # the inputs of the one that leads out of it.
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    return {f"{name}.weight": kernel.reshape(-1, outputs).T, f"{name}.bias": bias.reshape(-1)}


def _head(model: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What stands before the classifier, and the classifier's kernel (inputs, k) and bias."""
    dense = model.head.get_layer("logits")
    # transformers knows no temperature: the classifier takes it in.
    kernel, bias = (v.numpy() / np.float32(model.temperature) for v in (dense.kernel, dense.bias))
    if model.kind == "regression":
        kernel, bias = kernel * model.target_std, bias * model.target_std + model.target_mean
    if _family(model.backbone) == "bert":
        pooled = model.backbone.get_layer("pooled_dense")
        return {"weight": pooled.kernel.numpy().T, "bias": pooled.bias.numpy()}, kernel, bias
    # transformers puts a dense layer and a ReLU before DistilBERT's classifier. What a
    # normalisation gives has bounds: lifted above zero the ReLU lets it pass as it is, and
    # the classifier takes the lift off again.
    norm = model.backbone.get_layer(f"transformer_layer_{model.backbone.num_layers - 1}")
    gamma, beta = _pair("norm", norm._feedforward_layer_norm).values()
    lift = np.abs(gamma) * np.sqrt(len(gamma)) + np.abs(beta)
    through = {"weight": np.eye(len(gamma), dtype="float32"), "bias": lift}
    return through, kernel, bias - lift @ kernel
