"""Pretrained backbones for pictures, each with the scaling of pixels that it wants."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import keras_hub

from tf_finetune.data.paths import at_home
from tf_finetune.errors import UserError
from tf_finetune.model import folders, lite0
from tf_finetune.model.folders import explained, wrong_preset
from tf_finetune.model.image_task import ImageTask
from tf_finetune.model.scaling import PixelScaling, Scaling, scaling_of
from tf_finetune.packaged import is_packaged, packaged_path
from tf_finetune.value_checks import nearest

_APPLICATIONS = "keras.applications:"
_OF_TEXTS = ("minilm",)
# What keras.applications does not say: the sides of the pictures that they were trained on.
_SIDES = {
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
    "InceptionV3": 299,
    "InceptionResNetV2": 299,
    "NASNetLarge": 331,
    "Xception": 299,
}
_SIDE = 224
# Of a model that scales pixels itself.
_SCALES = (keras.layers.Rescaling, keras.layers.Normalization, PixelScaling)


@dataclasses.dataclass(slots=True, kw_only=True)
class LoadedPictures:
    """A pretrained backbone for pictures, ready for a head.

    Attributes:
        backbone: from scaled pixels to maps, tokens or vectors.
        scaling: of pixels, that it was trained with.
        size: (height, width) that it was trained with.
        fixed: it takes no other size.
        interpolation: of resizing, that it was trained with; as in `Look`.
    """

    backbone: keras.Model
    scaling: Scaling
    size: tuple[int, int] = (_SIDE, _SIDE)
    fixed: bool = False
    interpolation: str = "bilinear"


def is_for_pictures(preset: str) -> bool:
    """Whether a preset names a model of pictures; nothing is loaded and nothing fetched."""
    path = at_home(preset)
    if preset == lite0.PRESET or preset.startswith((_APPLICATIONS, "hf://timm/")):
        return True
    known = keras_hub.models.ImageClassifierPreprocessor.presets
    if is_packaged(preset) or "://" in preset:
        # Keras's own on a hub have their preset's name in them: `hf://keras/NAME`.
        return not known.keys().isdisjoint(preset.split("/"))
    if path.suffix == ".pth":
        return True
    if path.suffix == ".keras":
        # What is wrong with a file is said where it is loaded.
        with (
            contextlib.suppress(OSError, KeyError, ValueError, zipfile.BadZipFile),
            zipfile.ZipFile(path) as archive,
        ):
            return _takes_pictures(json.loads(archive.read("config.json")))
        return False
    if (path / "config.json").is_file():
        config = folders.read_config(path)
        return "architecture" in config or _takes_pictures(config)
    return preset in known


def check_name(preset: str) -> None:
    """Raises `UserError` for a plain name that no model of any kind has, with one of pictures."""
    known = [*keras_hub.models.ImageClassifierPreprocessor.presets, lite0.PRESET]
    others = {*keras_hub.models.Backbone.presets, *keras_hub.models.TextClassifier.presets}
    plain = not (set("/:.~") & set(preset)) and not at_home(preset).exists()
    if plain and preset not in others | {*known, *_OF_TEXTS}:
        raise wrong_preset(
            f'there is no model of pictures "{preset}".{nearest(preset, known)} Allowed are '
            "KerasHub's presets with an image classifier, efficientnet_lite0, hf://timm/NAME, "
            "keras.applications:NAME, folders and .keras files."
        )


def load_pictures(preset: str) -> LoadedPictures:
    """Loads a pretrained backbone for pictures, without its classifier.

    Args:
        preset: `efficientnet_lite0`, the packaged one, or its weights as a `.pth` file; a
            KerasHub preset name or its address on a hub (`hf://keras/NAME`); `hf://timm/NAME`;
            a local folder with a KerasHub or timm model; `keras.applications:NAME`; or a `.keras`
            file with an `ImageTask`, a KerasHub image classifier, or a model that scales pixels
            itself.

    Raises:
        UserError: if there is none, it cannot be fetched, is damaged, or not for pictures.
    """
    path = at_home(preset)
    if preset == lite0.PRESET or path.suffix == ".pth":
        file = packaged_path(lite0.PACKAGED) if preset == lite0.PRESET else path
        return LoadedPictures(
            backbone=lite0.load_lite0(file),
            scaling=Scaling(scale=(1 / lite0.STD,) * 3, offset=(-lite0.MEAN / lite0.STD,) * 3),
            interpolation="bicubic",
        )
    if preset.startswith(_APPLICATIONS):
        return application(preset.removeprefix(_APPLICATIONS))
    if path.suffix == ".keras":
        return _from_keras_file(path)
    if preset.startswith("hf://"):
        return _from_kerashub(str(folders.download(preset)))
    return _from_kerashub(str(path) if path.is_dir() else preset)


def application(name: str, weights: str | None = "imagenet") -> LoadedPictures:
    """A model of keras.applications, without its classifier.

    Args:
        name: as `MobileNetV2`.
        weights: as Keras takes them; None for random ones.

    Raises:
        UserError: if there is none of that name, or its weights cannot be fetched.
    """
    known = {n: f for n, f in vars(keras.applications).items() if inspect.isfunction(f)}
    if name not in known:
        raise wrong_preset(f'there is no "{name}" in keras.applications.{nearest(name, known)}')
    module = importlib.import_module(known[name].__module__)
    with explained(f"{_APPLICATIONS}{name}", "made; its weights are fetched from the network"):
        backbone = known[name](include_top=False, weights=weights)
    side = _SIDES.get(name, _SIDE)
    return _loaded(
        backbone,
        scaling_of(lambda x: module.preprocess_input(x, data_format="channels_last"), name),
        (side, side),
    )


def _from_kerashub(preset: str) -> LoadedPictures:
    with explained(preset, "read by KerasHub; check its name and files, and the network"):
        # First: it fails before gigabytes are fetched.
        preprocessor = keras_hub.models.ImageClassifierPreprocessor.from_preset(preset)
        backbone = keras_hub.models.Backbone.from_preset(preset)
    return _converted(backbone, preprocessor, preset)


def _converted(backbone: keras.Model, preprocessor: Any, preset: str) -> LoadedPictures:
    converter = getattr(preprocessor, "image_converter", None)
    if converter is None:
        raise wrong_preset(
            f'"{preset}" does not say how pixels are scaled (it has no image converter); save its '
            "preprocessor too, by save_to_preset."
        )
    scaling = Scaling(scale=_three(converter.scale, 1.0), offset=_three(converter.offset, 0.0))
    found = _loaded(backbone, scaling, converter.image_size)
    named = str(converter.interpolation)
    interpolation = "lanczos" if named.startswith("lanczos") else named
    return dataclasses.replace(found, interpolation=interpolation)


def _three(value: Any, default: float) -> tuple[float, float, float]:
    values = value if isinstance(value, list | tuple) else [default if value is None else value] * 3
    return float(values[0]), float(values[1]), float(values[2])


def _from_keras_file(file: Path) -> LoadedPictures:
    if not zipfile.is_zipfile(file):
        raise wrong_preset(f'"{file}" is no .keras file (no zip); save it again.')
    with explained(file, "loaded in Keras's safe mode (nothing in it may run code)"):
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
    if isinstance(model, ImageTask):
        return LoadedPictures(
            backbone=model.backbone,
            scaling=model.scaling,
            size=model.look.size,
            fixed=None not in model.backbone.input.shape[1:3],
            interpolation=model.look.interpolation,
        )
    if isinstance(model, keras_hub.models.ImageClassifier):
        return _converted(model.backbone, model.preprocessor, str(file))
    if isinstance(model.output, list | tuple | dict):
        raise wrong_preset(
            f'"{file}" has {len(model.output)} outputs; save the model with the one that a head '
            "is to stand on."
        )
    last = model.layers[-1]
    chooses = getattr(getattr(last, "activation", None), "__name__", "") in ("softmax", "sigmoid")
    if len(model.output.shape) == 2 and (chooses or isinstance(last, keras.layers.Dense)):
        raise wrong_preset(
            f'"{file}" ends with "{last.name}", its classifier; save the model without it '
            "(include_top=False, or keras.Model(model.input, model.layers[-2].output))."
        )
    if not any(isinstance(layer, _SCALES) for layer in model._flatten_layers()):
        raise wrong_preset(
            f'"{file}" does not say how pixels are scaled; put what was done to them beforehand '
            "into the model, as a keras.layers.Rescaling, and save it again."
        )
    return _loaded(model, Scaling(), None)


def _loaded(
    backbone: keras.Model, scaling: Scaling, size: tuple[int, int] | None
) -> LoadedPictures:
    shape: Any = getattr(backbone.input, "shape", ())
    if len(shape) != 4 or shape[3] != 3:
        raise wrong_preset(
            f"{type(backbone).__name__} takes {tuple(shape)}; it must take pictures (n, height, "
            "width, 3)."
        )
    fixed = None not in shape[1:3]
    own = (shape[1], shape[2]) if fixed else tuple(size or (_SIDE, _SIDE))
    return LoadedPictures(backbone=backbone, scaling=scaling, size=own, fixed=fixed)  # type: ignore


def _takes_pictures(config: dict[str, Any]) -> bool:
    """Whether a Keras configuration is of a model of pictures."""
    name = config.get("registered_name") or config.get("class_name", "")
    if name in ("Functional", "Sequential"):
        first = (config["config"].get("layers") or [{}])[0]
        return len(first.get("config", {}).get("batch_shape") or ()) == 4
    found = keras.saving.get_registered_object(name)
    if found is None or not inspect.isclass(found):
        return False
    backbones = {
        c.backbone_cls for c in folders.subclasses(keras_hub.models.ImageClassifierPreprocessor)
    }
    return issubclass(found, ImageTask | keras_hub.models.ImageClassifier) or found in backbones


def check_size(loaded: LoadedPictures, side: int, preset: str) -> tuple[int, int]:
    """(height, width) of the pictures of a run.

    Args:
        loaded: the backbone.
        side: `config.model.image_size`; 0 for the backbone's own.
        preset: of it, for the message.

    Raises:
        UserError: if the backbone takes another size only.
    """
    wanted = (side, side) if side else loaded.size
    if loaded.fixed and wanted != loaded.size:
        raise UserError(
            f"config.model.image_size is {side}, but {preset} takes pictures of "
            f"{loaded.size[0]} x {loaded.size[1]} pixels only; set 0, and all are resized."
        )
    if side:
        try:
            loaded.backbone.compute_output_shape((None, *wanted, 3))
        except ValueError as error:
            own = loaded.size[0]
            raise UserError(
                f"config.model.image_size is {side}, which {preset} does not take "
                f"({str(error).splitlines()[0]}). Raise it, or set 0 for its own, {own}."
            ) from None
    return wanted
