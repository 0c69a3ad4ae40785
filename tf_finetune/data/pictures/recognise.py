"""Whether a run is about pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image

from tf_finetune.data import tfds_reader
from tf_finetune.data.paths import expand
from tf_finetune.data.pictures.archive import is_archive
from tf_finetune.data.pictures.folder import holds_pictures
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

_COLUMN = "image"
_OF_TEXTS = ("text_pair", "token_deletion", "token_swap", "token_mask")
_OF_PICTURES = ("augment", "flip")


def is_images(config: DataConfig, data: Any = None) -> bool:
    """Whether the rows are pictures: `config.image` says so, or what the data are.

    Args:
        config: where the rows are.
        data: handed over in Python, or a path, in place of `config.path`.

    Raises:
        UserError: if `config.path` names nothing.
    """
    return bool(with_column(config, data).image)


def with_column(config: DataConfig, data: Any = None) -> DataConfig:
    """The settings with `image` filled in where the rows are pictures; see `is_images`."""
    if config.image:
        return config
    found = ""
    if data is not None and not isinstance(data, str | Path):
        found = _COLUMN if _are_pictures(data) else ""
    elif config.tfds and data is None:
        found = tfds_reader.picture_column(config)
    elif data or config.path:
        paths = expand(str(data or config.path), "config.data.path").values()
        if any(holds_pictures(path) if path.is_dir() else is_archive(path) for path in paths):
            found = _COLUMN
    return dataclasses.replace(config, image=found) if found else config


def of_model(config: DataConfig, model: Any) -> DataConfig:
    """The settings to read rows for a model; those of pictures stand in `image` or its like.

    Args:
        config: whose `image` may be empty, where the model was trained on a folder.
        model: what `load_model` gives.
    """
    return as_pictures(config) if getattr(model, "column", "text") == _COLUMN else config


def as_pictures(config: DataConfig) -> DataConfig:
    """The settings with a column of pictures, `image` where none is named."""
    return config if config.image else dataclasses.replace(config, image=_COLUMN)


def check_kind(config: DataConfig) -> None:
    """Refuses settings for texts where the rows are pictures, and the other way round.

    Args:
        config: with `image` filled in where the rows are pictures.

    Raises:
        UserError: naming the setting.
    """
    defaults = DataConfig()
    fields, rows = (_OF_TEXTS, "pictures") if config.image else (_OF_PICTURES, "texts")
    for field in fields:
        value = getattr(config, field)
        if value != getattr(defaults, field):
            raise UserError(
                f"config.data.{field} is {value!r}, but the rows are {rows}; leave it out."
                + ("" if config.image else " The column of pictures is named by config.data.image.")
            )


def _are_pictures(data: Any) -> bool:
    """Whether data in memory hold pictures in the first place, or as `image`."""
    if hasattr(data, "element_spec"):
        data = data.element_spec
        first = data[0] if isinstance(data, tuple) and data else None
        if first is not None and hasattr(first, "dtype") and first.dtype.name != "string":
            # One picture in grey; token ids have batches of a size that may vary.
            grey = first.shape.rank == 2 and None not in first.shape
            return grey or _is_array(first)
    if isinstance(data, Mapping):
        if "train" in data:
            return _are_pictures(data["train"])
        return _COLUMN in data and _is_array(data[_COLUMN])
    if isinstance(data, tuple) and data:
        first = data[0]
        return _are_pictures(first) if isinstance(first, Mapping) else _is_array(first)
    return _is_array(data)


def _is_array(values: Any) -> bool:
    """Whether the values are numbers in three dimensions or more, one picture or many."""
    if isinstance(values, list) and values:
        return isinstance(values[0], Image) or getattr(values[0], "ndim", 0) >= 2
    shape: Any = getattr(values, "shape", None)
    rank = (shape.rank or 0) if hasattr(shape, "rank") else len(shape or ())
    return hasattr(values, "dtype") and rank >= 3
