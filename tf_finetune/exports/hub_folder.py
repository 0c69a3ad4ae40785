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
    which can pool as ours do. A language model is KerasHub's own, and is written as such.
    """
    getattr(model, "language_model", model).save_to_preset(str(path))


def load(folder: Path) -> Any:
    """The `TextTask` or `LanguageTask` in such a folder."""
    import keras
    import keras_hub

    # Registers the classes that the files name.
    import tf_finetune.model.task  # noqa: F401
    from tf_finetune.model.language_task import language_task

    registered = json.loads((folder / TASK_FILE).read_text())["registered_name"]
    cls = keras.saving.get_registered_object(registered)
    if cls is not None and issubclass(cls, keras_hub.models.CausalLM):
        return language_task(keras_hub.models.CausalLM.from_preset(str(folder), dtype="float32"))
    task = keras.saving.deserialize_keras_object(json.loads((folder / TASK_FILE).read_text()))
    task.preprocessor.load_preset_assets(str(folder))
    task.load_task_weights(str(folder / "task.weights.h5"))
    (weights,) = folder.glob("model.weights.[hj]*")
    task.backbone.load_weights(str(weights))
    return task
