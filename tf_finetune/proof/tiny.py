"""A random BERT small enough for trials, and texts that it can learn."""

from __future__ import annotations

import keras_hub
import numpy as np

WORDS = ["good", "bad", "fine", "poor", "film", "plot", "the", "a", "is", "was", "##s"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def tiny_preprocessor(
    sequence_length: int = 16,
) -> keras_hub.models.BertTextClassifierPreprocessor:
    """For `VOCABULARY`."""
    tokenizer = keras_hub.models.BertTokenizer(VOCABULARY, lowercase=True)
    return keras_hub.models.BertTextClassifierPreprocessor(
        tokenizer, sequence_length=sequence_length
    )


def tiny_backbone(dropout: float = 0.0, num_layers: int = 3) -> keras_hub.models.BertBackbone:
    """Blocks of width 16 with random weights."""
    return keras_hub.models.BertBackbone(
        vocabulary_size=len(VOCABULARY),
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=32,
        dropout=dropout,
    )


def tiny_texts(count: int = 64, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Texts of 2 to 12 words and their labels: 1 where "good" occurs."""
    generator = np.random.default_rng(seed)
    texts, labels = [], []
    for i in range(count):
        words = list(generator.choice(WORDS[4:10], size=generator.integers(1, 12)))
        words.insert(int(generator.integers(0, len(words) + 1)), "good" if i % 2 else "bad")
        texts.append(" ".join(words))
        labels.append(i % 2)
    return texts, np.array(labels, "int32")
