"""Random models small enough for unit tests, and texts that one can learn."""

import keras
import keras_hub
import numpy as np

from tf_finetune.model.task import TextTask

WORDS = ["good", "bad", "fine", "poor", "film", "plot", "the", "a", "is", "was", "##s"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def tiny_preprocessor(sequence_length=16):
    tokenizer = keras_hub.models.BertTokenizer(VOCABULARY, lowercase=True)
    return keras_hub.models.BertTextClassifierPreprocessor(
        tokenizer, sequence_length=sequence_length
    )


def tiny_backbone(dropout=0.0, num_layers=3):
    return keras_hub.models.BertBackbone(
        vocabulary_size=len(VOCABULARY),
        num_layers=num_layers,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=32,
        dropout=dropout,
    )


def tiny_task(kind="classification", class_names=("neg", "pos"), seed=0, **options):
    keras.utils.set_random_seed(seed)
    backbone = tiny_backbone(options.pop("backbone_dropout", 0.0))
    options.setdefault("dropout", 0.0)
    return TextTask(backbone, tiny_preprocessor(), kind, class_names, **options)


def tiny_texts(count=64, seed=0):
    """Texts of 2 to 12 words and their labels: 1 where "good" occurs."""
    generator = np.random.default_rng(seed)
    texts, labels = [], []
    for i in range(count):
        words = list(generator.choice(WORDS[4:10], size=generator.integers(1, 12)))
        words.insert(int(generator.integers(0, len(words) + 1)), "good" if i % 2 else "bad")
        texts.append(" ".join(words))
        labels.append(i % 2)
    return texts, np.array(labels, "int32")


def two_headed():
    """With an embedding that is used twice, and every kind of regulariser."""
    keras.utils.set_random_seed(0)
    ids, numbers = keras.Input((5,), dtype="int32", name="i"), keras.Input((3,), name="n")
    table = keras.layers.Embedding(11, 4, embeddings_regularizer=keras.regularizers.L2(0.01))
    mean = keras.layers.GlobalAveragePooling1D()(table(ids))
    other = keras.layers.Flatten()(table(ids[:, :2]))
    x = keras.layers.Concatenate()([mean, other, numbers])
    x = keras.layers.Dense(8, "tanh", activity_regularizer=keras.regularizers.L2(0.1))(x)
    a = keras.layers.Dense(3, name="a", kernel_regularizer="l2")(x)
    return keras.Model([ids, numbers], {"a": a, "b": keras.layers.Dense(2, name="b")(x)})
