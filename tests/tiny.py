"""A random BERT small enough for unit tests, and texts that it can learn."""

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
