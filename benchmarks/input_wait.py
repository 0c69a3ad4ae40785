"""The share of a training step spent waiting for input.

Full fine-tuning of the packaged MiniLM on the reviews, step by step: the time in which
the loop waits for the next batch, and the time of the step itself.

    python benchmarks/input_wait.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tf_finetune.assemble import set_up
from tf_finetune.config import Phase
from tf_finetune.data.pipeline import training_dataset
from tf_finetune.fit import precision
from tf_finetune.fit.loop import adamw_of, compile_phase
from tf_finetune.fit.objective import objective_of
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import set_trainable
from tf_finetune.recipe import load_recipe

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reviews.py"
# Tracing and the first use of each length are not the steady state.
WARM_UP = 20


def main() -> None:
    """Reads the command line, takes the steps and prints the share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    config = load_recipe(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(config, Path(folder))
        task, rows = setup.task, setup.prepared.splits["train"]
        groups = layer_groups(task.network, task.backbone)
        set_trainable(groups, "all")
        optimizer = adamw_of(
            Phase(), len(rows) // config.fit.global_batch, groups, weight_decay=0.01, clip=1.0
        )
        waits, steps = [], []
        with precision.computing_in(setup.precision, task.backbone):
            compile_phase(task.network, optimizer, objective_of(task, 0.0))
            batches = iter(
                training_dataset(
                    setup.store,
                    setup.prepared.labels,
                    rows,
                    batch_size=config.fit.global_batch,
                    seed=0,
                )
            )
            for _ in range(WARM_UP + options.steps):
                began = time.perf_counter()
                x, y = next(batches)
                got = time.perf_counter()
                task.network.train_on_batch(x, y)
                waits.append(got - began)
                steps.append(time.perf_counter() - got)
    waited, stepped = sum(waits[WARM_UP:]), sum(steps[WARM_UP:])
    print(
        f"{options.steps} steps: waiting {waited / (waited + stepped):.2%} of the time; "
        f"median wait {statistics.median(waits[WARM_UP:]) * 1e3:.2f} ms, "
        f"median step {statistics.median(steps[WARM_UP:]) * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
