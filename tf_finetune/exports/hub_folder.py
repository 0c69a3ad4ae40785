"""A KerasHub preset folder: backbone, tokenizer and head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TASK_FILE = "task.json"
RUN = """
from tf_finetune.exports.load import load_model
model = load_model(path)
run = lambda i: model.predict(tuple([text] for text in texts(i)) if texts(i)[1:] else texts(i))
"""


def write(model: Any, path: Path) -> None:
    """Writes what KerasHub's `from_preset` reads as backbone and tokenizer, and the head.

    The whole model is what `load` reads: KerasHub has one task for each backbone, none of
    which can pool as ours do.
    """
    model.save_to_preset(str(path))


def load(folder: Path) -> Any:
    """The `TextTask` in such a folder."""
    import keras

    # Registers the classes that the files name.
    import tf_finetune.model.task  # noqa: F401

    task = keras.saving.deserialize_keras_object(json.loads((folder / TASK_FILE).read_text()))
    task.preprocessor.load_preset_assets(str(folder))
    task.load_task_weights(str(folder / "task.weights.h5"))
    (weights,) = folder.glob("model.weights.[hj]*")
    task.backbone.load_weights(str(weights))
    return task
