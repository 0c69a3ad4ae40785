"""How well a language model foresees responses, token by token, with intervals over the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tf_finetune.errors import UserError
from tf_finetune.results.resampling import middle, resamples
from tf_finetune.results.slices import parts_of

_FIGURES = ("perplexity", "token_loss", "token_accuracy")


def score_responses(counts: np.ndarray, *, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Scores the responses of some rows.

    Perplexity is the exponential of the mean loss of a token, of all response tokens together:
    among so many equally likely ones the model would be as unsure. It depends on how the
    tokenizer cuts, so it cannot be compared with that of a model of another one.

    Args:
        counts: (n, 3), as `surprise_of_responses` gives it.
        bootstrap: resamples behind each interval.
        seed: of the resampling.

    Returns:
        `rows` and `tokens`; `perplexity`, `token_loss` (nats) and `token_accuracy`, each with
        `NAME_interval`.

    Raises:
        UserError: if no row has a token, or a loss is no finite number.
    """
    counts = _checked(counts)
    rounds = np.concatenate([_figures(w @ counts) for w in _resampled(counts, bootstrap, seed)])
    values = _figures(counts.sum(axis=0, keepdims=True))[0]
    return {
        "rows": len(counts),
        "tokens": int(counts[:, 2].sum()),
        **dict(zip(_FIGURES, values.tolist(), strict=True)),
        **{f"{name}_interval": middle(rounds[:, i]) for i, name in enumerate(_FIGURES)},
    }


def gain_of_responses(
    better: np.ndarray, worse: np.ndarray, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """How much lower the perplexity is than before, on the same rows, resampled together.

    Args:
        better: as in `score_responses`, of the model.
        worse: likewise, of what it is compared with.
        bootstrap: as in `score_responses`.
        seed: likewise.

    Returns:
        As `evaluate.gain`: above 0 is better.
    """
    both = np.concatenate([_checked(worse), _checked(better)], axis=1)

    def fall(sums: np.ndarray) -> np.ndarray:
        return _figures(sums[:, :3])[:, 0] - _figures(sums[:, 3:])[:, 0]

    rounds = np.concatenate([fall(w @ both) for w in _resampled(both, bootstrap, seed)])
    return {
        "figure": _FIGURES[0],
        "value": float(fall(both.sum(axis=0, keepdims=True))[0]),
        "interval": middle(rounds),
    }


def slices_of_responses(
    counts: np.ndarray, slices: Mapping[str, np.ndarray], *, bootstrap: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """The perplexity on each part of the rows, as `by_slice` has it."""
    found = []
    for by, names in slices.items():
        for name, chosen in parts_of(names):
            if not counts[chosen, 2].sum():
                continue
            scores = score_responses(counts[chosen], bootstrap=bootstrap, seed=seed)
            facts = {"by": by, "name": name, "rows": scores["rows"]}
            interval = scores["perplexity_interval"]
            found.append(facts | {"value": scores["perplexity"], "interval": interval})
    return found


def _figures(sums: np.ndarray) -> np.ndarray:
    """(n, 3) sums to (n, 3) perplexity, loss and accuracy."""
    tokens = np.maximum(sums[:, 2], 1)
    loss = sums[:, 0] / tokens
    with np.errstate(over="ignore"):
        return np.stack([np.exp(loss), loss, sums[:, 1] / tokens], axis=1)


def _checked(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, "float64")
    if not len(counts) or not counts[:, 2].sum():
        raise UserError(
            "There is no response to evaluate on; make config.data.test larger, or raise "
            "config.model.sequence_length."
        )
    bad = int((~np.isfinite(counts)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"The model gives no finite numbers for {bad:,} of {len(counts):,} rows: training "
            "has diverged. Lower config.fit.learning_rate or lora_learning_rate, or set "
            "--config.fit.precision=float32."
        )
    return counts


def _resampled(counts: np.ndarray, bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    return resamples(np.ones(len(counts), "int64"), bootstrap, seed)
