"""Prompts with a response each, for a causal language model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.pipeline import Store
from tf_finetune.data.prepare import Prepared
from tf_finetune.data.responses import (
    ResponseLabels,
    ResponseStore,
    choose_pair_length,
    lost,
    packed,
    response_store,
)
from tf_finetune.errors import UserError
from tf_finetune.inputs.texts import Texts
from tf_finetune.model.headed import HeadedTask
from tf_finetune.model.language_models import LoadedLanguage
from tf_finetune.model.language_task import language_task

# Where the backbone has no limit, and none is set.
_MOST_CHOSEN = 1024


class Prompts(Texts):
    """`Inputs` of prompts with responses; the text columns are the prompts."""

    _mean = 1.0

    def __init__(self, loaded: LoadedLanguage, config: FineTuneConfig) -> None:
        super().__init__(loaded, config)
        self._packs = config.fit.packing

    def store(self, prepared: Prepared, cache: Path) -> ResponseStore:
        """Token ids; the sequence length is chosen before where none is set."""
        train = prepared.splits["train"]
        self._preprocessor.sequence_length = self._model.sequence_length or choose_pair_length(
            self._preprocessor, prepared.table, train, self._loaded.max_length or _MOST_CHOSEN
        )
        rows = np.concatenate(list(prepared.splits.values()))
        digest = prepared.digest
        return response_store(self._preprocessor, prepared.table, rows, cache, digest)

    def joined(
        self, prepared: Prepared, store: Any, say: Callable[[str], None]
    ) -> tuple[Prepared, Store]:
        """As they are, or with several training rows in one."""
        if line := lost(store, np.concatenate(list(prepared.splits.values()))):
            say(line)
        counts = store.response_tokens()
        for split, rows in prepared.splits.items():
            if not counts[rows].any():
                raise UserError(
                    f"config.model.sequence_length is {self._preprocessor.sequence_length}, "
                    f"and no response of the {split} rows begins within so many tokens, for which "
                    "the prompts alone are too long. Raise it, or shorten the prompts."
                )
        if not self._packs:
            return prepared, store
        rows = prepared.splits["train"]
        store, packs = packed(store, rows)
        most = self._preprocessor.sequence_length
        full = store.lengths[packs].sum() / (len(packs) * most)
        say(
            f"packing: the {len(rows):,} training rows are in {len(packs):,} of {most} tokens at "
            f"most, which are {full:.0%} full; config.fit.global_batch counts these"
        )
        splits = prepared.splits | {"train": packs}
        return dataclasses.replace(prepared, splits=splits, joined=len(rows)), store

    def labels(self, prepared: Prepared, store: Any, say: Callable[[str], None]) -> ResponseLabels:
        """The tokens of responses, each at the one before it."""
        train = prepared.splits["train"]
        members = np.concatenate([store.members(row) for row in train.tolist()])
        self._mean = max(1.0, store.response_tokens()[members].sum() / len(train))
        return ResponseLabels(store)

    def task(self, **head: Any) -> HeadedTask:
        """A `LanguageTask`, which takes nothing of `head`."""
        return language_task(self._loaded.model, self._mean, packed=self._packs)

    @property
    def facts(self) -> str:
        """The tokenizer's settings and vocabulary, and whether rows are packed."""
        return f"{super().facts} {self._packs}"
