"""A Hugging Face BERT folder small enough for unit tests, with random weights."""

import json

import numpy as np
from safetensors.numpy import save_file

WORDS = ["the", "film", "is", "good", "cafe", "##s", "un", "##seen", "海", ".", "[", "]"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": len(VOCABULARY),
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
    "hidden_act": "gelu",
}


def write(folder, weights=True, **changes):
    """Writes config.json, vocab.txt, tokenizer_config.json and model.safetensors."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    settings = {"do_lower_case": True, "strip_accents": None, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if weights:
        save_file(_weights(), folder / "model.safetensors")
    return folder


def _weights():
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), hidden),
        "embeddings.position_embeddings.weight": (CONFIG["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
        "pooler.dense.weight": (hidden, hidden),
        "pooler.dense.bias": (hidden,),
    }
    for i in range(CONFIG["num_hidden_layers"]):
        for name, columns, rows in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", hidden, inner),
            ("output.dense", inner, hidden),
        ):
            shapes[f"encoder.layer.{i}.{name}.weight"] = (rows, columns)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (rows,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"encoder.layer.{i}.{name}.weight"] = (hidden,)
            shapes[f"encoder.layer.{i}.{name}.bias"] = (hidden,)
    generator = np.random.default_rng(0)
    return {key: generator.normal(size=shape).astype("float32") for key, shape in shapes.items()}
