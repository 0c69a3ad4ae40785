"""Random models small enough for unit tests, and texts that one can learn."""

import keras

from tf_finetune.model.task import TextTask
from tf_finetune.proof.tiny import (  # noqa: F401
    VOCABULARY,
    WORDS,
    tiny_backbone,
    tiny_preprocessor,
    tiny_texts,
)


def tiny_task(kind="classification", class_names=("neg", "pos"), seed=0, **options):
    keras.utils.set_random_seed(seed)
    backbone = tiny_backbone(options.pop("backbone_dropout", 0.0))
    options.setdefault("dropout", 0.0)
    return TextTask(backbone, tiny_preprocessor(), kind, class_names, **options)


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
