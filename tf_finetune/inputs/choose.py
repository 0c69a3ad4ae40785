"""From the settings of a run to the kind of its rows, with the backbone for them."""

from __future__ import annotations

from typing import Any

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.pictures.recognise import is_images
from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.errors import UserError
from tf_finetune.inputs.kind import Inputs
from tf_finetune.inputs.pictures import Pictures
from tf_finetune.inputs.prompts import Prompts
from tf_finetune.inputs.texts import Texts
from tf_finetune.inputs.words import Words
from tf_finetune.model import presets
from tf_finetune.model.image_backbones import LoadedPictures, check_name, is_for_pictures
from tf_finetune.model.language_models import load_language
from tf_finetune.settings import ModelConfig

# `recognise.check_kind` looks at those of `config.data`.
_OF_TEXTS, _OF_PICTURES = ("sequence_length",), ("image_size", "image_resize")


def inputs_of(config: FineTuneConfig, data: Any = None) -> Inputs:
    """Loads a run's backbone.

    Raises:
        UserError: if it is not there, does not fit the settings, or reads texts where the
            data are pictures or the other way round.
    """
    preset = config.model.preset
    pictures = is_images(config.data, data)
    if config.model.task == LANGUAGE:
        if pictures:
            raise UserError(
                f"config.model.task={LANGUAGE} is for texts, but the data are pictures; choose "
                "another task, or other data."
            )
    elif pictures != is_for_pictures(preset):
        if pictures:
            check_name(preset)
        presets.load(preset)  # says what is wrong with it, if it is none at all
        found, mend = ("pictures", "efficientnet_lite0") if pictures else ("texts", "minilm")
        raise UserError(
            f'config.model.preset is "{preset}", which is no model of {found}, as the data are; '
            f"choose one, such as {mend}, or other data."
        )
    _check_settings(config, pictures)
    return loaded_inputs(config)


def _check_settings(config: FineTuneConfig, pictures: bool) -> None:
    """Refuses settings of the other kind of rows, which would do nothing."""
    found, fields = ("pictures", _OF_TEXTS) if pictures else ("texts", _OF_PICTURES)
    for field in fields:
        value, default = getattr(config.model, field), getattr(ModelConfig(), field)
        if value != default:
            raise UserError(
                f"config.model.{field} is {value!r}, but the rows are {found}; leave it out."
            )
    if config.fit.cutmix and not pictures:
        raise UserError(
            f"config.fit.cutmix is {config.fit.cutmix:g}, which puts parts of pictures into "
            "others, but the rows are texts; set it to 0, or use config.fit.mixup."
        )


def loaded_inputs(config: FineTuneConfig) -> Inputs:
    """As `inputs_of`, whatever the data are."""
    if config.model.task == LANGUAGE:
        return Prompts(load_language(config.model.preset), config)
    loaded = presets.load(config.model.preset)
    if isinstance(loaded, LoadedPictures):
        return Pictures(loaded, config)
    return Words(loaded, config) if config.model.task == TOKENS else Texts(loaded, config)
