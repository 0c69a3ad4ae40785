"""Pictures with a label each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.pictures.augment import picture_noise
from tf_finetune.data.pictures.sheets import write_looks
from tf_finetune.data.pictures.store import Look, PixelStore, pixel_store
from tf_finetune.data.pipeline import Noise, Store
from tf_finetune.data.prepare import Prepared
from tf_finetune.inputs.kind import Inputs
from tf_finetune.model.headed import HeadedTask
from tf_finetune.model.image_backbones import LoadedPictures, check_size
from tf_finetune.model.image_task import ImageTask


class Pictures(Inputs):
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
        write_looks(prepared, self._data, folder, self._look)

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
