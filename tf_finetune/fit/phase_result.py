"""What came of a phase."""

from __future__ import annotations

import dataclasses
from typing import Any

from tf_finetune.fit.audit import Audit
from tf_finetune.fit.seeds import Seeds


@dataclasses.dataclass(slots=True, kw_only=True)
class PhaseResult:
    """What happened in a phase.

    Attributes:
        trainable: parameters that trained, of `total`.
        seconds: of the whole phase, with validation and checkpoints.
        start: validation figures before the first epoch.
        best_epoch: counted from 1; its weights are the phase's result. 0 where no
            epoch was better than the start, whose weights are then kept.
        history: one dict an epoch, as in `metrics.jsonl`.
        skipped: as in `SpikeGuard`.
        seeds: where the phase was trained from several initial heads.
        kept_share: of the network's multiplications, those that were made once for each
            row and kept, instead of in every step.
    """

    name: str
    train: str
    trainable: int
    total: int
    seconds: float
    first_step_seconds: float
    start: dict[str, float]
    best_epoch: int
    history: list[dict]
    audit: Audit
    skipped: list[tuple[int, int, int]]
    seeds: Seeds | None = None
    kept_share: float = 0.0

    @property
    def figures(self) -> dict[str, Any]:
        """Those of the best epoch, or of the start if none was better."""
        return self.history[self.best_epoch - 1] if self.best_epoch else self.start


def summary(result: PhaseResult, monitor: str) -> str:
    """One line: which epoch was best, its figures, the time and the audit."""
    row = result.figures
    names = [name for name in dict.fromkeys((monitor, "val_loss", "loss")) if name in row]
    figures = ", ".join(f"{name} {row[name]:.4f}" for name in names)
    best = (
        f"best of {len(result.history)} epochs is {result.best_epoch}"
        if result.best_epoch
        else f"none of {len(result.history)} epochs was better than the start, which is kept"
    )
    return f"phase {result.name}: {best}, {figures}; {result.seconds:.0f} s; {result.audit}"
