"""A run folder or an export, back as a model that takes texts or pictures."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.errors import UserError
from tf_finetune.exports.folder import VERSION, read_marker
from tf_finetune.exports.hub_folder import TASK_FILE
from tf_finetune.exports.hub_folder import load as load_keras_hub
from tf_finetune.exports.saved_model import PIXELS_INPUT
from tf_finetune.exports.served import (
    ExportedModel,
    ExportedPictures,
    ExportedResponses,
    ExportedTags,
)

_MODEL = "model.keras"


def load_model(workdir_or_export: str | os.PathLike) -> Any:
    """Loads what a run left behind.

    Args:
        workdir_or_export: a run folder, its `model.keras`, or an export:
            `WORKDIR/export`, `.../saved_model`, `.../saved_model/1` or `.../keras_hub`.

    Returns:
        A `TextTask`, `TokenTask`, `LanguageTask` or `ImageTask` from a run folder or
        `keras_hub`, an `ExportedModel`, `ExportedTags`, `ExportedResponses` or
        `ExportedPictures` from an export. All have `predict` (texts or pictures to a float32
        array, to `Tagged` words or to responses), `class_names` and `kind`.

    Raises:
        UserError: if neither is there, or the file is damaged.
    """
    path = Path(workdir_or_export)
    for file in (path, path / _MODEL):
        if file.is_file():
            return _load_keras(file)
    if (path / TASK_FILE).is_file():
        with _readable(path / TASK_FILE):
            return load_keras_hub(path)
    for inside in ("", VERSION, f"saved_model/{VERSION}", f"export/saved_model/{VERSION}"):
        if (path / inside / "saved_model.pb").is_file():
            marker = read_marker(path / inside) or {}
            if marker.get("kind") == TOKENS:
                return ExportedTags(path / inside)
            if marker.get("kind") == LANGUAGE:
                return ExportedResponses(path / inside)
            pictures = PIXELS_INPUT in marker.get("inputs", ())
            return (ExportedPictures if pictures else ExportedModel)(path / inside)
    found = "is not there" if not path.exists() else "has none of them"
    if (path / "config.json").is_file():
        found = "is a run that has not finished; give the train command again"
    raise UserError(
        f'No model in "{path}": looked for {_MODEL} and for saved_model/{VERSION}, the folder '
        f"{found}."
    )


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turns what goes wrong while a model is read into a message."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f'"{file}" cannot be read as a Keras model: {reason}') from error


def _load_keras(file: Path) -> Any:
    import keras

    # Registers the classes that the file names.
    import tf_finetune.model.image_task
    import tf_finetune.model.language_task
    import tf_finetune.model.task
    import tf_finetune.model.token_task  # noqa: F401
    from tf_finetune.model.headed import HeadedTask

    with _readable(file):
        model = keras.saving.load_model(file, compile=False)
    if not isinstance(model, HeadedTask):
        raise UserError(
            f'"{file}" holds a {type(model).__name__}, not a model that tf_finetune saved; load '
            "it with keras.saving.load_model."
        )
    return model
