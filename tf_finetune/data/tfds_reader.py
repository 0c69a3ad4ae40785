"""Reader of TensorFlow Datasets that have been prepared on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.data.paths import at_home
from tf_finetune.data.rows import Columns, Part, Record, quoted
from tf_finetune.data.table import other_split
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig
from tf_finetune.value_checks import nearest


def parts(config: DataConfig, columns: Columns, splits: dict[str, str]) -> list[Part]:
    """The records of splits of a prepared data set; nothing is ever downloaded.

    Args:
        config: for `tfds` and `tfds_dir`.
        columns: to read.
        splits: the data set's name for "train", "validation" and "test"; a slice
            such as `train[:10%]` is allowed.

    Raises:
        UserError: if it is not prepared, or lacks a split or column.
    """
    builder = _builder(config)
    columns.find_in(f'The data set "{config.tfds}"', sorted(builder.info.features))
    for split, name in splits.items():
        try:
            builder.info.splits[name]
        except (KeyError, ValueError):
            known = sorted(builder.info.splits)
            raise UserError(
                f'config.data.{split} is "{name}", but the data set "{config.tfds}" has the '
                f"splits {quoted(known)}.{nearest(name, known)} "
                f"Name one of these{other_split(split)}."
            ) from None
    return [
        Part(f"{config.tfds}/{name}", split, _records(builder, name, config, columns))
        for split, name in splits.items()
    ]


def picture_column(config: DataConfig) -> str:
    """The feature that holds pictures, in a data set without the feature `config.text`.

    Raises:
        UserError: if the data set is not prepared.
    """
    import tensorflow_datasets as tfds

    features = _builder(config).info.features
    names = [name for name, one in features.items() if type(one) is tfds.features.Image]
    if config.text in features or not names:
        return ""
    return "image" if "image" in names else names[0]


def _builder(config: DataConfig) -> Any:
    """The builder made from the prepared files alone, not from the code that downloads."""
    import tensorflow_datasets as tfds

    folder = config.tfds_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    path = at_home(folder)
    try:
        return tfds.core.read_only_builder.builder_from_files(config.tfds, data_dir=str(path))
    except Exception as error:  # the library raises many kinds; each means: not readable here
        raise _not_prepared(config, path, error) from None


def _not_prepared(config: DataConfig, path: Path, error: Exception) -> UserError:
    base = config.tfds.partition("/")[0].partition(":")[0]
    inside = f"{base}/" if base and (path / base).is_dir() else ""
    folders = sorted(found.name for found in (path / inside).glob("*/"))
    there = [inside + folder for folder in folders if folder != "downloads"]
    holds = f" (it holds {quoted(there)})" if there else ""
    own = f", data_dir={str(path)!r}" if config.tfds_dir else ""
    why = "" if type(error).__name__ == "DatasetNotFoundError" else f" {error}"
    return UserError(
        f'config.data.tfds: no prepared data set "{config.tfds}" in "{path}"{holds}.'
        f"{nearest(config.tfds, there)}{why} Nothing is downloaded here. Prepare it with "
        f'`python -c "import tensorflow_datasets as tfds; tfds.load({config.tfds!r}{own})"`, or '
        "with `tfds build` in the folder of its code; or set config.data.tfds_dir."
    )


def _records(builder: Any, split: str, config: DataConfig, columns: Columns) -> Iterator[Record]:
    features = [builder.info.features[column] for column in columns.names]
    import tensorflow_datasets as tfds

    decoders = {
        column: tfds.decode.SkipDecoding()  # the file as it was put in
        for column, feature in zip(columns.names, features, strict=True)
        if isinstance(feature, tfds.features.Image)
    }
    dataset = builder.as_dataset(split=split, shuffle_files=False, decoders=decoders)
    dataset = dataset.map(lambda example: {name: example[name] for name in columns.names})
    for row, example in enumerate(dataset.as_numpy_iterator(), start=1):
        values = [
            _value(example[column], feature)
            for column, feature in zip(columns.names, features, strict=True)
        ]
        yield f"{config.tfds}/{split}", row, values


def _value(value: Any, feature: Any) -> Any:
    """A plain value; a class, or a sequence of them, by name. -1 means no label."""
    inner = getattr(feature, "feature", feature)
    if hasattr(inner, "int2str"):
        names = [inner.int2str(int(index)) if index >= 0 else None for index in np.ravel(value)]
        return names[0] if inner is feature else names
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value
