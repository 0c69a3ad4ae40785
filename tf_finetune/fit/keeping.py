"""How what is frozen is kept in a run, and under which names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tf_finetune.model.digests import digest_of, settings_of
from tf_finetune.model.slicing import Cut
from tf_finetune.model.wiring import wiring_of
from tf_finetune.whole import remove

COSTS = "costs.json"  # what was measured
_ACTIVATIONS, _FEATURES = "activations-", "features-"
MEASURED = "writing-measured-"


@dataclasses.dataclass(slots=True, kw_only=True)
class Keeping:
    """How activations and features are kept in a run.

    Attributes:
        folder: where.
        inputs: a digest of the rows' inputs.
        computed: in which precision, on how many replicas, by what; these decide over bits.
        dtype: in which floats are stored; empty for that in which they were computed.
        memory: bytes that are held in memory; more is read from the disk.
        batch: rows a step, while they are made.
        room: bytes of the disk that are left to others.
    """

    folder: Path
    inputs: str
    computed: str
    dtype: str
    memory: int
    batch: int
    room: int = 0

    def features(
        self, encoder: keras.Model, wiring: str, beside: Sequence[list[int]], rows: np.ndarray
    ) -> Path:
        """The folder of what a head trains on, named by all that decides what is in it.

        Args:
            encoder: that gives it.
            wiring: of the encoder; empty where it is no graph.
            beside: the ends of the cuts whose activations are made in the same pass.
            rows: in the order of the pass.
        """
        settings = settings_of([encoder]), wiring
        facts = [self.inputs, self.computed, self.batch, [*beside], settings]
        total = hashlib.sha256(json.dumps(facts).encode() + rows.tobytes())
        for variable in encoder.weights:
            total.update(digest_of(variable).encode())
        return self.folder / f"{_FEATURES}{total.hexdigest()[:16]}"

    def activations(self, cut: Cut, rows: np.ndarray) -> Path:
        """The same of what a cut keeps of rows."""
        settings = settings_of(s.layer for s in cut.prefix if s.layer is not None)
        facts = [self.inputs, self.computed, self.dtype, self.batch, cut.ends(), settings]
        total = hashlib.sha256(json.dumps([*facts, wiring_of(cut)]).encode() + rows.tobytes())
        for variable in cut.weights():
            total.update(digest_of(variable).encode())
        return self.folder / f"{_ACTIVATIONS}{total.hexdigest()[:16]}"


def remove_kept(folder: Path) -> None:
    """Removes all that is kept from a folder that no run is at."""
    remove_unfinished(folder)
    for kept in (*folder.glob(f"{_ACTIVATIONS}*"), *folder.glob(f"{_FEATURES}*"), folder / COSTS):
        remove(kept)


def remove_unfinished(folder: Path) -> None:
    """Removes what runs that were killed left there."""
    for begins in (f"writing-{_ACTIVATIONS}", f"writing-{_FEATURES}", f"writing-{COSTS}", MEASURED):
        for left in folder.glob(f"{begins}*"):
            remove(left)
