"""Proof of what a phase trained: the frozen unchanged, the rest moved."""

from __future__ import annotations

import dataclasses
import hashlib

import keras
import numpy as np


class AuditError(RuntimeError):
    """What a phase trained is not what it was told to train."""


@dataclasses.dataclass(slots=True, frozen=True)
class Audit:
    """What `Snapshot.check` found: how many variables of each kind."""

    frozen_unchanged: int
    trained_moved: int


class Snapshot:
    """The state of a network's weights when a phase begins.

    Args:
        network: with `trainable` as the phase has it.
    """

    def __init__(self, network: keras.Model) -> None:
        self._network = network
        self._before = {v.path: _digest(v) for v in network.weights}
        self._trained = {v.path for v in network.trainable_weights}

    def check(self) -> Audit:
        """Compares with the weights as they are now.

        Raises:
            AuditError: naming frozen variables that changed, or trained ones
                that did not.
        """
        moved = {v.path for v in self._network.weights if _digest(v) != self._before[v.path]}
        if changed := sorted(moved - self._trained):
            raise AuditError(f"{len(changed)} frozen variables changed: {changed[:5]}")
        if stuck := sorted(self._trained - moved):
            raise AuditError(
                f"{len(stuck)} of {len(self._trained)} variables were to train but did not "
                f"move: {stuck[:5]}"
            )
        return Audit(len(self._before) - len(self._trained), len(self._trained))


def _digest(variable: keras.Variable) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(variable.numpy()).data, digest_size=16).digest()
