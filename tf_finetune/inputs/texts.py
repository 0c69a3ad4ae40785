"""Texts, or pairs of them, with a label each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.augment import token_noise
from tf_finetune.data.pipeline import Noise, Store
from tf_finetune.data.prepare import Prepared
from tf_finetune.data.text import choose_length, facts_of, texts_of, tokenize
from tf_finetune.errors import UserError
from tf_finetune.inputs.kind import Inputs
from tf_finetune.model.headed import HeadedTask
from tf_finetune.model.task import TextTask
from tf_finetune.settings import ModelConfig


class Texts(Inputs):
    """`Inputs` of texts."""

    def __init__(self, loaded: Any, config: FineTuneConfig) -> None:
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

    def task(self, **head: Any) -> HeadedTask:
        """A `TextTask`."""
        return TextTask(
            self.backbone, self._preprocessor, exact_gelu=self._loaded.exact_gelu, **head
        )

    def examples(self, table: pa.Table, store: Store, rows: np.ndarray) -> list[list[str]]:
        """The text columns, one or two."""
        return texts_of(table, rows)

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


def _check_length(model: ModelConfig, most: int | None) -> None:
    if most and model.sequence_length > most:
        raise UserError(
            f"config.model.sequence_length is {model.sequence_length}; "
            f"{model.preset} takes at most {most} tokens. Lower it, or "
            "set 0 to choose it from the data."
        )
