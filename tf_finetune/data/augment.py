"""Small random changes to texts, anew in each epoch, so that few of them go further."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

_MASK = "padding_mask"


@dataclasses.dataclass(slots=True, kw_only=True)
class TokenNoise:
    """Random deletion and swapping (Wei & Zou 2019, arXiv:1901.11196), of tokens here.

    Attributes:
        deletion: chance of each token to be left out; one of each text always stays.
        swap: share of the tokens that change places, in pairs, within their text.
        special: ids that are neither left out nor moved; they also divide two texts.
        padding: the id behind a text.
    """

    deletion: float
    swap: float
    special: tuple[int, ...]
    padding: int

    def __call__(
        self, batch: dict[str, np.ndarray], generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The changed batch: int32 (n, length) each, with its padding mask made anew.

        Args:
            batch: as `TokenStore.batch` gives it; stays as it is.
            generator: which decides everything that is random.
        """
        changed = {key: np.zeros_like(values) for key, values in batch.items()}
        changed["token_ids"][:] = self.padding
        for row, size in enumerate(batch[_MASK].sum(axis=1).tolist()):
            order = self._order(batch["token_ids"][row, :size], generator)
            for key, values in batch.items():
                changed[key][row, : order.size] = values[row, order]
        return changed

    def _order(self, ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The positions of a row that stay, in their new order."""
        order = np.arange(ids.size)
        stays = np.ones(ids.size, bool)
        for piece in _pieces(~np.isin(ids, self.special)):
            kept = generator.random(piece.size) >= self.deletion
            kept[generator.integers(piece.size)] |= not kept.any()
            stays[piece] = kept
            left = piece[kept]
            for _ in range(round(self.swap * left.size / 2)):
                a, b = generator.choice(left, 2)
                order[a], order[b] = order[b], order[a]
        return order[stays]


def _pieces(inside: np.ndarray) -> list[np.ndarray]:
    """Positions of the runs of True."""
    positions = np.flatnonzero(inside)
    runs = np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)
    return [run for run in runs if run.size]


def token_noise(preprocessor: Any, deletion: float, swap: float) -> TokenNoise | None:
    """The noise for a preprocessor's tokens; None if there is to be none."""
    if not deletion and not swap:
        return None
    tokenizer = preprocessor.tokenizer
    return TokenNoise(
        deletion=deletion,
        swap=swap,
        special=tuple(int(i) for i in tokenizer.special_token_ids),
        padding=int(tokenizer.pad_token_id),
    )
