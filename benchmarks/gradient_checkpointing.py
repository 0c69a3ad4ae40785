"""What gradient checkpointing saves in memory and costs in time.

Full fine-tuning of the packaged MiniLM on random tokens, each setting in a process of its
own: the most memory that the process held, what it held before the first step, and the
median processor time of a step, over all cores.

    python benchmarks/gradient_checkpointing.py
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

WARM_UP = 2


def main() -> None:
    """Reads the command line and measures both settings, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--one", choices=["off", "on"], help="measure this one, in this process")
    options = parser.parse_args()
    if options.one:
        measure(options, on=options.one == "on")
        return
    for setting in ("off", "on"):
        subprocess.run([sys.executable, *sys.argv, f"--one={setting}"], check=True)


def measure(options: argparse.Namespace, *, on: bool) -> None:
    """Takes the steps and prints a line."""
    import numpy as np

    from tf_finetune.config import Phase
    from tf_finetune.fit.loop import adamw_of, compile_phase
    from tf_finetune.fit.objective import objective_of
    from tf_finetune.fit.precision import computing_in
    from tf_finetune.fit.recompute import recomputed_blocks
    from tf_finetune.model import backbones
    from tf_finetune.model.blocks import layer_groups
    from tf_finetune.model.freezing import set_trainable
    from tf_finetune.model.task import TextTask

    loaded = backbones.load("minilm")
    task = TextTask(loaded.backbone, loaded.preprocessor, "classification", ("neg", "pos"))
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, "all")
    shape = (options.batch, options.tokens)
    random = np.random.default_rng(0)
    x = {
        "token_ids": random.integers(1000, 20000, shape, "int32"),
        "padding_mask": np.ones(shape, bool),
        "segment_ids": np.zeros(shape, "int32"),
    }
    x = {name: x[name] for name in task.network.input}
    y = random.integers(0, 2, options.batch)
    seconds = []
    with computing_in(options.precision, task.backbone), recomputed_blocks(groups, on):
        optimizer = adamw_of(Phase(), 100, groups, weight_decay=0.01, clip=1.0)
        compile_phase(task.network, optimizer, objective_of(task, 0.0))
        before = _peak()
        for _ in range(WARM_UP + options.steps):
            began = time.process_time()
            task.network.train_on_batch(x, y)
            seconds.append(time.process_time() - began)
    print(
        f"checkpointing {'on' if on else 'off'}: peak {_peak():.2f} GB, before the first step "
        f"{before:.2f} GB, {statistics.median(seconds[WARM_UP:]):.1f} processor seconds a step"
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
