"""Proof of what a phase trained: the frozen unchanged, the rest moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras

from tf_finetune.model.digests import digest_of


class AuditError(RuntimeError):
    """What a phase trained is not what it was told to train."""


@dataclasses.dataclass(slots=True, frozen=True)
class Audit:
    """What `Snapshot.check` found: how many variables of each kind.

    Attributes:
        unmoved: those that were to train but did not move.
    """

    frozen_unchanged: int
    trained_moved: int
    unmoved: tuple[str, ...] = ()

    def __str__(self) -> str:
        line = (
            f"audit: {self.trained_moved} variables moved, "
            f"{self.frozen_unchanged} frozen bit-identical"
        )
        if self.unmoved:
            some = ", ".join(self.unmoved[:3])
            line += f"; {len(self.unmoved)} were to train but did not move: {some}"
        return line

    def check_moved(self, *, strict: bool = True) -> None:
        """Raises `AuditError` as `Snapshot.check` does."""
        if self.unmoved and (strict or not self.trained_moved):
            raise AuditError(
                f"{len(self.unmoved)} of {self.trained_moved + len(self.unmoved)} variables were "
                f"to train but did not move: {[*self.unmoved[:5]]}"
            )


class Snapshot:
    """The state of a model's weights when a phase begins.

    What a layer that is open keeps beside its trained variables, such as the moving
    statistics of a normalisation, may move and need not.

    Args:
        model: with `trainable` as the phase has it.
        before: `digests` of then, where the phase began earlier.

    Attributes:
        digests: of each weight when the phase began, in hexadecimal.
    """

    def __init__(self, model: keras.Model, before: Sequence[str] | None = None) -> None:
        # By position: two layers of one model may have variables of the same path.
        self._weights = model.weights
        self.digests = [*before] if before else [digest_of(v) for v in self._weights]
        self._trained = {id(v) for v in model.trainable_weights}
        self._free = {id(v) for v in kept_beside(model)}

    def check(self, *, strict: bool = True) -> Audit:
        """Compares with the weights as they are now.

        Args:
            strict: trained variables that did not move are an error. Without it that
                takes all of them: a plain SGD may leave one where its gradient is tiny.

        Raises:
            AuditError: naming frozen variables that changed, or trained ones
                that did not move.
        """
        audit = self.compare()
        audit.check_moved(strict=strict)
        return audit

    def compare(self) -> Audit:
        """As `check`, but what did not move is no error."""
        changed, unmoved, moved, kept = [], [], 0, 0
        for variable, before in zip(self._weights, self.digests, strict=True):
            same = digest_of(variable) == before
            if id(variable) in self._trained:
                moved += not same
                unmoved += [variable.path] * same
            elif id(variable) not in self._free:
                kept += same
                changed += [variable.path] * (not same)
        if changed:
            raise AuditError(f"{len(changed)} frozen variables changed: {sorted(changed)[:5]}")
        return Audit(kept, moved, tuple(sorted(unmoved)))


def kept_beside(model: keras.Model) -> list[keras.Variable]:
    """What open layers keep beside what trains, such as moving statistics."""
    trained = {id(v) for v in model.trainable_weights}
    layers = (layer for layer in model._flatten_layers() if layer.trainable)
    found = {id(v): v for layer in layers for v in layer._non_trainable_variables}
    return [v for key, v in found.items() if key not in trained]


def may_change(model: keras.Model) -> set[int]:
    """The ids of the weights that a phase may change; the others are proved the same."""
    return {id(v) for v in (*model.trainable_weights, *kept_beside(model))}
