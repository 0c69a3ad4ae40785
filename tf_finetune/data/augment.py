"""Small random changes to texts, anew in each epoch, so that few of them go further."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

_MASK = "padding_mask"


@dataclasses.dataclass(slots=True, kw_only=True)
class TokenNoise:
    """Random deletion and swapping (Wei & Zou 2019, arXiv:1901.11196), of tokens here; masking.

    A word that is masked is missing as with word dropout (Iyyer et al. 2015), but its
    place is kept, and a model that was pretrained to fill masks has met 12% of its input
    so (Devlin et al. 2019, arXiv:1810.04805). The mask is not filled.

    Attributes:
        deletion: chance of each token to be left out; one of each text always stays.
        swap: share of the tokens that change places, in pairs, within their text.
        special: ids that are neither left out nor moved; they also divide two texts.
        padding: the id behind a text.
        masking: chance of each token that stays to be replaced by the mask token; one of
            each text never is.
        mask_id: of the mask token.
    """

    deletion: float
    swap: float
    special: tuple[int, ...]
    padding: int
    masking: float = 0.0
    mask_id: int = 0

    def __call__(
        self, batch: dict[str, np.ndarray], generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The changed batch: int32 (n, length) each, with its padding mask made anew.

        Args:
            batch: as `TokenStore.batch` gives it; stays as it is.
            generator: which decides everything that is random.
        """
        return self._changed(batch, itertools.repeat(generator))

    def each(self, batch: dict[str, np.ndarray], seeds: Sequence[int]) -> dict[str, np.ndarray]:
        """The same, of which each row's changes follow from a seed of its own."""
        return self._changed(batch, map(np.random.default_rng, seeds))

    def _changed(
        self, batch: dict[str, np.ndarray], generators: Iterable[np.random.Generator]
    ) -> dict[str, np.ndarray]:
        changed = {key: np.zeros_like(values) for key, values in batch.items()}
        changed["token_ids"][:] = self.padding
        sizes = batch[_MASK].sum(axis=1).tolist()
        for row, (size, generator) in enumerate(zip(sizes, generators, strict=False)):
            order = self._order(batch["token_ids"][row, :size], generator)
            for key, values in batch.items():
                changed[key][row, : order.size] = values[row, order]
            if self.masking:
                self._mask(changed["token_ids"][row, : order.size], generator)
        return changed

    def _mask(self, ids: np.ndarray, generator: np.random.Generator) -> None:
        for piece in _pieces(~np.isin(ids, self.special)):
            hidden = generator.random(piece.size) < self.masking
            hidden[generator.integers(piece.size)] &= not hidden.all()
            ids[piece[hidden]] = self.mask_id

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


def token_noise(preprocessor: Any, data: DataConfig) -> TokenNoise | None:
    """The noise for a preprocessor's tokens; None if there is to be none.

    Raises:
        UserError: for masking without a mask token.
    """
    deletion, swap, masking = data.token_deletion, data.token_swap, data.token_mask
    if not deletion and not swap and not masking:
        return None
    tokenizer = preprocessor.tokenizer
    mask_id = getattr(tokenizer, "mask_token_id", None)
    if masking and mask_id is None:
        raise UserError(
            f"config.data.token_mask is {masking:g}, but the backbone was not trained to fill "
            f"masks: its tokenizer, a {type(tokenizer).__name__}, has no mask token. Set it to 0, "
            "or choose another model.preset, as BERT or RoBERTa."
        )
    return TokenNoise(
        deletion=deletion,
        swap=swap,
        special=tuple(int(i) for i in tokenizer.special_token_ids),
        padding=int(tokenizer.pad_token_id),
        masking=masking,
        mask_id=int(mask_id or 0),
    )
