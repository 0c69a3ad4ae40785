"""What an earlier run gave for the same test rows, to set a new run beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tf_finetune.assemble import Setup
from tf_finetune.config import FineTuneConfig
from tf_finetune.results.compare import Run, check_comparable, read_run
from tf_finetune.results.tested import Tested, keys_of


def previous_outputs(config: FineTuneConfig, setup: Setup) -> np.ndarray | None:
    """The outputs of `config.results.previous`, in the order of this run's test rows.

    Args:
        config: of this run.
        setup: of this run.

    Returns:
        None if no run is named.

    Raises:
        UserError: if that is no finished run, or it was not tested on the same rows, of
            the same task and classes.
    """
    if not config.results.previous:
        return None
    earlier, prepared = read_run(Path(config.results.previous)), setup.prepared
    rows = prepared.splits["test"]
    here = Tested(
        keys=keys_of(prepared.table, rows),
        labels=prepared.labels[rows],
        outputs=np.arange(len(rows)),
    ).in_order_of_keys()
    facts = {"task": setup.task.kind, "class_names": list(setup.task.class_names)}
    check_comparable(earlier, Run(folder=Path("this run"), config=config, card=facts, tested=here))
    outputs = np.empty_like(earlier.tested.outputs)
    outputs[here.outputs] = earlier.tested.outputs
    return outputs
