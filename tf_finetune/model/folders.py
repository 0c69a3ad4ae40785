"""Whether a local model folder is whole and of a kind that can be loaded."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import keras_hub
import safetensors

from tf_finetune.errors import UserError
from tf_finetune.model.fidelity import refuse_unfaithful

# Hugging Face model types that KerasHub both converts and has a classifier's
# preprocessor for.
MODEL_TYPES = ("albert", "bert", "distilbert", "roberta", "xlm-roberta")


# Neither pickles nor TensorFlow 1 weights.
_HUB_FILES = ("*.json", "*.txt", "*.model", "model*.safetensors", "model*.weights.h5", "assets/*")


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`, of Hugging Face's or KerasHub's kind.

    Raises:
        UserError: if there is none, or it is of neither kind.
    """
    file = folder / "config.json"
    if not file.exists():
        raise wrong_preset(
            f'the folder "{folder}" has no config.json; it must be a Hugging Face '
            "model folder or one by KerasHub's save_to_preset."
        )
    try:
        config = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise wrong_preset(f'"{file}" is no JSON: {error}.') from error
    kinds = {"registered_name", "model_type", "architecture"}
    if not isinstance(config, dict) or not kinds & set(config):
        raise wrong_preset(
            f'"{file}" has neither "model_type" (Hugging Face) nor "registered_name" '
            '(KerasHub) nor "architecture" (timm); it is no model\'s configuration.'
        )
    return config


def check_kerashub(folder: Path, config: dict[str, Any]) -> None:
    """Raises `UserError` unless a KerasHub folder holds a whole text backbone."""
    cls = keras.saving.get_registered_object(config["registered_name"])
    fitting = [
        c for c in subclasses(keras_hub.models.TextClassifierPreprocessor) if c.backbone_cls is cls
    ]
    if cls is None or not fitting:
        raise wrong_preset(
            f'the folder "{folder}" holds a {config.get("class_name")}; it must hold '
            "a KerasHub text backbone that has a TextClassifierPreprocessor."
        )
    for names in (("model.weights.h5", "model.weights.json"), ("tokenizer.json",)):
        if not any((folder / name).exists() for name in names):
            raise wrong_preset(
                f'the folder "{folder}" has no {names[0]}; '
                "save backbone and preprocessor there by save_to_preset."
            )


def check_hugging_face(folder: Path, config: dict[str, Any]) -> list[Path]:
    """The safetensors files of a checkpoint that is whole and can be converted.

    Raises:
        UserError: if it is not.
    """
    if config["model_type"] not in MODEL_TYPES:
        raise wrong_preset(
            f'"{folder}" is of model_type "{config["model_type"]}", for which there '
            f"is no conversion to a text classifier; allowed: {', '.join(MODEL_TYPES)}."
        )
    refuse_unfaithful(folder, config)
    return check_weights(folder)


def check_weights(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, all of which can be read.

    Raises:
        UserError: if there are none, or one is missing, cut off or damaged.
    """
    files = _weight_files(folder)
    for file in files:
        try:
            with safetensors.safe_open(file, "numpy"):
                pass
        except (safetensors.SafetensorError, OSError) as error:
            raise wrong_preset(
                f'"{file}" is missing, cut off or damaged '
                f"({first_line(error)}); copy or download it again."
            ) from error
    return files


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    pickled = sorted(file.name for file in folder.glob("*.bin"))
    if pickled:
        raise wrong_preset(
            f'the folder "{folder}" has only pickled weights ({pickled[0]}), which are '
            "not read because a pickle can run code; convert them to model.safetensors."
        )
    raise wrong_preset(
        f'the folder "{folder}" has no weights (model.safetensors); '
        "copy or download it again, whole."
    )


def wrong_preset(message: str) -> UserError:
    """The error that names the setting and says what is wrong with it."""
    return UserError(f"config.model.preset: {message}")


def first_line(error: Exception) -> str:
    """Kind and first line of a library's error, at most 300 characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def load_keras_file(file: Path) -> Any:
    """What a `.keras` file holds.

    Raises:
        UserError: if there is none, it is damaged, or would run code.
    """
    if not file.is_file():
        raise wrong_preset(f'there is no file "{file}".')
    if not zipfile.is_zipfile(file):
        raise wrong_preset(f'"{file}" is no .keras file (no zip); save it again.')
    with explained(file, "loaded in Keras's safe mode (nothing in it may run code)"):
        return keras.saving.load_model(file, compile=False, safe_mode=True)


def subclasses(cls: Any) -> set[Any]:
    """A class and all that come from it."""
    children: list[Any] = cls.__subclasses__()
    return {cls}.union(*(subclasses(child) for child in children))


def download(preset: str) -> Path:
    """The folder of a Hugging Face model, fetched unless it is in the cache.

    Raises:
        UserError: if it cannot be.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise wrong_preset(
            f'"{preset}" is fetched by huggingface_hub; run `pip install huggingface_hub`.'
        ) from error
    # One call for all files: KerasHub's own way retries each of them for 20 s.
    try:
        folder = huggingface_hub.snapshot_download(
            preset.removeprefix("hf://"), allow_patterns=list(_HUB_FILES), etag_timeout=10
        )
    except Exception as error:
        raise wrong_preset(
            f'"{preset}" could not be fetched and is not in the cache; check the name '
            f"(hf://OWNER/NAME), the network and your rights, or give a local folder. "
            f"{first_line(error)}"
        ) from error
    return Path(folder)


@contextlib.contextmanager
def explained(preset: str | Path, deed: str) -> Iterator[None]:
    """Turns whatever goes wrong inside the libraries into one line for the user."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise wrong_preset(f'"{preset}" could not be {deed}. {first_line(error)}') from error
