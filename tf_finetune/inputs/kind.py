"""What of a run depends on whether its rows are texts or pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tf_finetune.data.pipeline import Noise, Store
from tf_finetune.data.prepare import Prepared
from tf_finetune.model.headed import HeadedTask


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

    def joined(
        self, prepared: Prepared, store: Any, say: Callable[[str], None]
    ) -> tuple[Prepared, Store]:
        """The same with the rows to train on as they are batched, several in one if packed."""
        return prepared, store

    def labels(self, prepared: Prepared, store: Any, say: Callable[[str], None]) -> Any:
        """By row, as the loss takes them; says what of them is lost."""
        return prepared.targets

    def task(self, **head: Any) -> HeadedTask:
        """The backbone with a head; `head` is what `HeadedTask` takes for it."""

    def examples(self, table: pa.Table, store: Store, rows: np.ndarray) -> Any:
        """Some rows as the task's `predict`, and an export, take them."""

    def looks(self, prepared: Prepared, folder: Path) -> None:
        """Writes what people can look at, if there is anything, to a folder."""
        return  # texts are in the data report

    @property
    def size(self) -> dict[str, int]:
        """How large a row's input is, by the name of its setting."""

    @property
    def words(self) -> str:
        """The same for people."""

    @property
    def facts(self) -> str:
        """All that decides which numbers a row becomes."""
