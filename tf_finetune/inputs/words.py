"""Texts whose words have labels."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.pieces import PieceLabels, PieceStore, lost, piece_store
from tf_finetune.data.pipeline import Store
from tf_finetune.data.prepare import Prepared
from tf_finetune.data.rows_file import taken
from tf_finetune.data_checks import TOKENS
from tf_finetune.errors import UserError
from tf_finetune.inputs.texts import Texts
from tf_finetune.model.backbones import Loaded
from tf_finetune.model.headed import HeadedTask
from tf_finetune.model.token_task import TokenTask, check_tokenizer


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


def check_scorer() -> None:
    """Raises `UserError` where the package that counts entities is not installed."""
    if importlib.util.find_spec("seqeval") is None:
        raise UserError(
            f"config.model.task={TOKENS} is scored by seqeval, which is not installed; run "
            '`pip install "tf_finetune[tokens]"`.'
        )
