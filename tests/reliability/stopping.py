"""Runs that are asked to stop at a chosen update."""

from __future__ import annotations

from typing import Any

import pytest

from tf_finetune.fit.resuming import SaveState


def stopping_at(update: int, patch: pytest.MonkeyPatch) -> None:
    """Has each run asked to stop in the n-th batch that it trains on."""
    end, begin = SaveState.on_train_batch_end, SaveState.on_train_begin
    calls: list[int] = []

    def begun(state: SaveState, logs: Any = None) -> None:
        calls.clear()
        begin(state, logs)

    def ended(state: SaveState, batch: int, logs: Any = None) -> None:
        calls.append(batch)
        if len(calls) == update:
            state._saving.stop.ask()
        end(state, batch, logs)

    patch.setattr(SaveState, "on_train_begin", begun)
    patch.setattr(SaveState, "on_train_batch_end", ended)
