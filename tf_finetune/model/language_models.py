"""Pretrained causal language models, each with the preprocessor that fits it."""

from __future__ import annotations

import dataclasses
import difflib
import json
from pathlib import Path
from typing import Any

import keras_hub

from tf_finetune.data.paths import at_home
from tf_finetune.model import folders
from tf_finetune.packaged import is_packaged, packaged_path

_INPUTS = {"token_ids", "padding_mask"}


@dataclasses.dataclass(slots=True, kw_only=True)
class LoadedLanguage:
    """A pretrained language model.

    Attributes:
        model: of KerasHub, with its backbone and preprocessor.
        max_length: the most tokens that the backbone has positions for; None where it goes by
            distances, and has no such limit.
    """

    model: keras_hub.models.CausalLM
    max_length: int | None

    @property
    def backbone(self) -> keras_hub.models.Backbone:
        """From token ids to hidden states."""
        return self.model.backbone

    @property
    def preprocessor(self) -> keras_hub.models.CausalLMPreprocessor:
        """From strings to token ids."""
        return self.model.preprocessor


def load_language(preset: str) -> LoadedLanguage:
    """Loads a pretrained causal language model with its tokenizer, in float32.

    Args:
        preset: a KerasHub preset name; `hf://OWNER/NAME`; a local folder with a Hugging Face
            or a KerasHub model; or a `.keras` file that holds a KerasHub `CausalLM` or a run's
            model.

    Raises:
        UserError: if there is no such preset, it cannot be fetched, is damaged, or is no
            causal language model that can be converted.
    """
    path = at_home(preset)
    if path.suffix == ".keras":
        return _checked(preset, _from_keras_file(path))
    if is_packaged(preset):
        path = packaged_path(preset)
    elif preset.startswith("hf://"):
        path = folders.download(preset)
    elif path.is_file():
        raise folders.wrong_preset(f'"{preset}" is a file; give its folder or a .keras file.')
    elif not path.is_dir():
        if "://" not in preset:
            _check_name(preset)
        with folders.explained(
            preset, "fetched; check the network and the name, or give a local folder"
        ):
            return _checked(preset, _from_preset(preset))
    config = folders.read_config(path)
    if "registered_name" not in config:
        folders.check_weights(path)
    with folders.explained(path, "read as a causal language model by KerasHub"):
        return _checked(preset, _from_preset(str(path)))


def _from_preset(preset: str) -> Any:
    file = Path(preset) / "task.json"
    task = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if task.get("registered_name", "").startswith("tf_finetune"):
        raise folders.wrong_preset(
            f'"{preset}" holds a {task["class_name"]} of a run, no causal language model.'
        )
    return keras_hub.models.CausalLM.from_preset(preset, dtype="float32")


def _from_keras_file(file: Path) -> Any:
    # Imported for its registration with Keras.
    from tf_finetune.model.language_task import LanguageTask

    model = folders.load_keras_file(file)
    return model.language_model if isinstance(model, LanguageTask) else model


def _checked(preset: str, model: Any) -> LoadedLanguage:
    if not isinstance(model, keras_hub.models.CausalLM):
        raise folders.wrong_preset(
            f'"{preset}" holds a {type(model).__name__}; config.model.task=causal_lm needs a '
            "KerasHub CausalLM."
        )
    inputs = {*model.input} if isinstance(model.input, dict) else set()
    if inputs != _INPUTS:
        raise folders.wrong_preset(
            f'"{preset}" is a {type(model).__name__}, which takes {", ".join(sorted(inputs))}; '
            "choose one of texts alone, that takes token_ids and padding_mask."
        )
    if model.preprocessor is None:
        raise folders.wrong_preset(
            f'"{preset}" has no preprocessor; save the model with one, by save_to_preset.'
        )
    own = type(model.preprocessor).generate_preprocess
    if own is not keras_hub.models.CausalLMPreprocessor.generate_preprocess:
        raise folders.wrong_preset(
            f'"{preset}" is a {type(model).__name__}, which cuts prompts in a way of its own that '
            "is not made for here; choose one as GPT-2, Llama, Mistral, Gemma or Qwen."
        )
    limit = getattr(model.backbone, "max_sequence_length", None)
    return LoadedLanguage(model=model, max_length=limit)


def _check_name(preset: str) -> None:
    known = keras_hub.models.CausalLM.presets
    if preset in known:
        return
    if "/" in preset or preset.startswith((".", "~")):
        hint = f' For a Hugging Face model write "hf://{preset}".' if preset.count("/") == 1 else ""
        raise folders.wrong_preset(f'there is no folder "{preset}".{hint}')
    close = difflib.get_close_matches(preset, known, n=3, cutoff=0.3) or sorted(known)[:12]
    raise folders.wrong_preset(
        f'there is no causal language model or folder "{preset}". Nearest presets: '
        f"{', '.join(close)}."
    )
