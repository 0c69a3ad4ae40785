"""A random GPT-2 that writes bytes, prompts whose responses it can learn, and runs on them."""

import json
from pathlib import Path

import keras
import keras_hub
import numpy as np

from tests.runs import config_for

END = "<|endoftext|>"
RESPONSES = {"good": " yes", "bad": " no"}


def byte_tokenizer(sequence_length: int = 64) -> keras_hub.models.GPT2CausalLMPreprocessor:
    """GPT-2's way to write bytes as characters."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]
    # KerasHub's tokenizer wants one merge at least.
    vocabulary = {letter: i for i, letter in enumerate([*letters, "qz", END])}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=["q z"])
    return keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=sequence_length)


def tiny_gpt2(dropout: float = 0.0, seed: int = 1, **changes) -> keras_hub.models.GPT2CausalLM:
    keras.utils.set_random_seed(seed)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64}
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=258, max_sequence_length=96, dropout=dropout, **sizes | changes
    )
    return keras_hub.models.GPT2CausalLM(backbone, byte_tokenizer())


def save_gpt2(folder: Path, dropout: float = 0.0) -> Path:
    tiny_gpt2(dropout).save_to_preset(str(folder))
    return folder


def prompts(count: int = 80, seed: int = 0) -> dict[str, list[str]]:
    """Prompts of two to five words, and a response that one of them decides."""
    generator = np.random.default_rng(seed)
    found: dict[str, list[str]] = {"text": [], "label": []}
    for i in range(count):
        words = list(generator.choice(["a", "film", "the", "plot"], generator.integers(1, 5)))
        word = "good" if i % 2 else "bad"
        found["text"].append(f"{i} " + " ".join([*words, word]) + ":")
        found["label"].append(RESPONSES[word])
    return found


def write_prompts(file: Path, table: dict[str, list[str]]) -> Path:
    rows = zip(*table.values(), strict=True)
    lines = (json.dumps(dict(zip(table, row, strict=True))) for row in rows)
    file.write_text("\n".join(lines) + "\n")
    return file


def language_config(preset, **changes):
    settings = {"sequence_length": 0, "task": "causal_lm", "phases": "full", "epochs": 2}
    return config_for(preset, **settings | {"learning_rate": 5e-3} | changes)
