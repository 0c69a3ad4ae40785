"""One trial of a tuning: the phases of a run, judged on validation alone."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from tf_finetune.assemble import set_up
from tf_finetune.config import FineTuneConfig
from tf_finetune.fit import precision
from tf_finetune.kept import frozen_part, kept_in
from tf_finetune.model import heads
from tf_finetune.one_phase import run_phase
from tf_finetune.optim.carry import State
from tf_finetune.preflight import fitting


def run_trial(
    config: FineTuneConfig,
    folder: Path,
    cache: Path,
    data: Any,
    reached: Callable[[float, bool], None],
    say: Callable[[str], None],
) -> str:
    """Trains as a run would, and leaves its test and retained rows alone.

    Args:
        config: of the trial.
        folder: for its checkpoints and logs.
        cache: for rows, tokens and activations, which trials share.
        data: as in `fine_tune`.
        reached: takes the validation figure after each phase, and whether it was the last.
        say: where lines for people go.

    Returns:
        The digest of the data.
    """
    try:
        setup = set_up(config, cache, data, say=say)
        prepared = setup.prepared
        # In the place of the test rows, which no trial may touch.
        splits = {name: prepared.splits[name] for name in ("train", "validation")}
        splits["test"] = splits["validation"]
        setup.prepared = dataclasses.replace(prepared, splits=splits)
        setup.baseline = None
        config = fitting(config, setup, say=say)
        state: State = {}
        monitor = heads.monitor(config.model.task)[0]
        with (
            precision.computing_in(setup.precision, setup.task.backbone),
            kept_in(config, cache, say) as kept,
        ):
            frozen = frozen_part(setup, config, kept, say)
            for number, phase in enumerate(setup.phases, 1):
                result, _ = run_phase(
                    setup, config, phase, number, folder, state, say, frozen=frozen
                )
                reached(float(result.figures[monitor]), number == len(setup.phases))
        return prepared.digest
    finally:
        # Else the graphs of all trials stay in memory.
        keras.backend.clear_session()
        gc.collect()
