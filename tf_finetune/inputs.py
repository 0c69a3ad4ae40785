"""What of a run depends on whether its rows are texts or pictures."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.augment import token_noise
from tf_finetune.data.pictures.augment import picture_noise
from tf_finetune.data.pictures.recognise import is_images
from tf_finetune.data.pictures.sheets import write_looks
from tf_finetune.data.pictures.store import Look, PixelStore, pixel_store
from tf_finetune.data.pieces import PieceLabels, PieceStore, lost, piece_store
from tf_finetune.data.pipeline import Noise, Store
from tf_finetune.data.prepare import Prepared
from tf_finetune.data.rows_file import taken
from tf_finetune.data.text import choose_length, facts_of, texts_of, tokenize
from tf_finetune.data_checks import TOKENS
from tf_finetune.errors import UserError
from tf_finetune.model import presets
from tf_finetune.model.backbones import Loaded
from tf_finetune.model.headed import HeadedTask
from tf_finetune.model.image_backbones import LoadedPictures, check_size, is_for_pictures
from tf_finetune.model.image_task import ImageTask
from tf_finetune.model.task import TextTask
from tf_finetune.model.token_task import TokenTask, check_tokenizer
from tf_finetune.settings import ModelConfig

# `check_kind` looks at those of `config.data`.
_OF_TEXTS, _OF_PICTURES = ("sequence_length",), ("image_size", "image_resize")


class Inputs(Protocol):
    """The backbone of a run and what is done to the rows for it.

    Attributes:
        backbone: pretrained.
        noise: for the rows to train on; None for none.
    """

    backbone: Any
    noise: Noise | None

    def store(self, prepared: Prepared, cache: Path) -> Store:
        """The inputs of all rows of all splits, kept in a folder."""

    def labels(self, prepared: Prepared, store: Any, say: Callable[[str], None]) -> Any:
        """By row, as the loss takes them; says what of them is lost."""

    def task(self, **head: Any) -> HeadedTask:
        """The backbone with a head; `head` is what `HeadedTask` takes for it."""

    def examples(self, table: pa.Table, store: Store, rows: np.ndarray) -> Any:
        """Some rows as the task's `predict`, and an export, take them."""

    def looks(self, prepared: Prepared, folder: Path) -> None:
        """Writes what people can look at, if there is anything, to a folder."""

    @property
    def size(self) -> dict[str, int]:
        """How large a row's input is, by the name of its setting."""

    @property
    def words(self) -> str:
        """The same for people."""

    @property
    def facts(self) -> str:
        """All that decides which numbers a row becomes."""


def inputs_of(config: FineTuneConfig, data: Any = None) -> Inputs:
    """Loads a run's backbone.

    Raises:
        UserError: if it is not there, does not fit the settings, or reads texts where the
            data are pictures or the other way round.
    """
    preset = config.model.preset
    pictures = is_images(config.data, data)
    if pictures != is_for_pictures(preset):
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
    loaded = presets.load(config.model.preset)
    if isinstance(loaded, LoadedPictures):
        return Pictures(loaded, config)
    return Words(loaded, config) if config.model.task == TOKENS else Texts(loaded, config)


class Texts:
    """`Inputs` of texts."""

    def __init__(self, loaded: Loaded, config: FineTuneConfig) -> None:
        _check_length(config.model, loaded.max_length)
        self._loaded, self._model = loaded, config.model
        self.backbone, self._preprocessor = loaded.backbone, loaded.preprocessor
        self.noise: Noise | None = token_noise(loaded.preprocessor, config.data)

    def store(self, prepared: Prepared, cache: Path) -> Store:
        """Token ids; the sequence length is chosen before where none is set."""
        train = prepared.splits["train"]
        self._preprocessor.sequence_length = self._model.sequence_length or choose_length(
            self._preprocessor, prepared.table, train, self._loaded.max_length
        )
        rows = np.concatenate(list(prepared.splits.values()))
        return tokenize(self._preprocessor, prepared.table, rows, cache, prepared.digest)

    def labels(self, prepared: Prepared, store: Any, say: Callable[[str], None]) -> Any:
        """Those of the rows."""
        return prepared.targets

    def task(self, **head: Any) -> HeadedTask:
        """A `TextTask`."""
        return TextTask(
            self.backbone, self._preprocessor, exact_gelu=self._loaded.exact_gelu, **head
        )

    def examples(self, table: pa.Table, store: Store, rows: np.ndarray) -> list[list[str]]:
        """The text columns, one or two."""
        return texts_of(table, rows)

    def looks(self, prepared: Prepared, folder: Path) -> None:
        """Nothing: texts are in the data report."""

    @property
    def size(self) -> dict[str, int]:
        """The most tokens of a text."""
        return {"sequence_length": self._preprocessor.sequence_length}

    @property
    def words(self) -> str:
        """The same for people."""
        return f"{self._preprocessor.sequence_length} tokens at most"

    @property
    def facts(self) -> str:
        """The tokenizer's settings and vocabulary."""
        return facts_of(self._preprocessor)


class Words(Texts):
    """`Inputs` of texts whose words have labels."""

    _mean = 1.0

    def __init__(self, loaded: Loaded, config: FineTuneConfig) -> None:
        check_scorer()
        check_tokenizer(loaded.preprocessor, config.model.preset)
        super().__init__(loaded, config)
        # Batches are padded to their own longest row: there is nothing to choose.
        self._preprocessor.sequence_length = config.model.sequence_length or loaded.max_length

    def store(self, prepared: Prepared, cache: Path) -> PieceStore:
        """Token ids, and where words begin."""
        rows, names = np.concatenate(list(prepared.splits.values())), list(self.backbone.input)
        return piece_store(self._preprocessor, names, prepared.table, rows, cache, prepared.digest)

    def labels(self, prepared: Prepared, store: Any, say: Callable[[str], None]) -> PieceLabels:
        """The tags of words, at their first pieces."""
        assert prepared.tags
        if line := lost(store, prepared.tags, np.concatenate(list(prepared.splits.values()))):
            say(line)
        train = prepared.splits["train"]
        self._mean = max(1.0, sum(len(store.seen(row)) for row in train) / len(train))
        return PieceLabels(store, prepared.tags)

    def task(self, **head: Any) -> HeadedTask:
        """A `TokenTask`."""
        exact = self._loaded.exact_gelu
        return TokenTask(
            self.backbone, self._preprocessor, exact_gelu=exact, words=self._mean, **head
        )

    def examples(self, table: pa.Table, store: Store, rows: np.ndarray) -> list[list[str]]:
        """The words."""
        return taken(table.select(["words"]), rows)["words"].to_pylist()


class Pictures:
    """`Inputs` of pictures."""

    def __init__(self, loaded: LoadedPictures, config: FineTuneConfig) -> None:
        model = config.model
        self._loaded, self._data = loaded, config.data
        self._look = Look(
            size=check_size(loaded, model.image_size, model.preset),
            interpolation=loaded.interpolation,
            how=model.image_resize,
        )
        self.backbone = loaded.backbone
        self.noise: Noise | None = picture_noise(config.data)

    def store(self, prepared: Prepared, cache: Path) -> PixelStore:
        """Pixels."""
        rows = np.concatenate(list(prepared.splits.values()))
        return pixel_store(prepared.table, rows, cache, prepared.digest, self._look)

    def labels(self, prepared: Prepared, store: Any, say: Callable[[str], None]) -> Any:
        """Those of the rows."""
        return prepared.targets

    def task(self, **head: Any) -> HeadedTask:
        """An `ImageTask`."""
        return ImageTask(
            self.backbone,
            None,
            **dataclasses.asdict(self._loaded.scaling),
            **dataclasses.asdict(self._look),
            **head,
        )

    def examples(self, table: pa.Table, store: Store, rows: np.ndarray) -> np.ndarray:
        """Pixels at the size of the network's input."""
        return store.batch(rows)

    def looks(self, prepared: Prepared, folder: Path) -> None:
        """Contact sheets of the training pictures, of findings and of augmentation."""
        write_looks(prepared, self._data, folder)

    @property
    def size(self) -> dict[str, int]:
        """Pixels a side, the longer one."""
        return {"image_size": max(self._look.size)}

    @property
    def words(self) -> str:
        """The same for people."""
        return "pictures resized to {} x {} pixels".format(*self._look.size)

    @property
    def facts(self) -> str:
        """How pictures are resized."""
        return str(dataclasses.asdict(self._look))


def check_scorer() -> None:
    """Raises `UserError` where the package that counts entities is not installed."""
    if importlib.util.find_spec("seqeval") is None:
        raise UserError(
            f"config.model.task={TOKENS} is scored by seqeval, which is not installed; run "
            '`pip install "tf_finetune[tokens]"`.'
        )


def _check_length(model: ModelConfig, most: int) -> None:
    if model.sequence_length > most:
        raise UserError(
            f"config.model.sequence_length is {model.sequence_length}; "
            f"{model.preset} takes at most {most} tokens. Lower it, or "
            "set 0 to choose it from the data."
        )
