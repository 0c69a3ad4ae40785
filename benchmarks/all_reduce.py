"""What it takes to sum the gradients of an update over processes of this machine.

The gradients of the packaged MiniLM, of as many rows as a replica has, by what trains: summed
alone, without computing them. Prints the table of docs/scaling.md: the milliseconds of a sum,
median and fastest round, and how fast a link would be on which the fastest takes as long.

    python benchmarks/all_reduce.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
from parity import environments, model

ROWS, TOKENS = 16, 64  # of a replica
PHASES = ("head", "lora", "last:1", "last:2", "all")
ROUNDS = {"head": 200, "lora": 100, "all": 15}  # else 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", nargs="*", type=int, default=(2, 4))
    parser.add_argument("--model", default="MiniLM", choices=("MiniLM", "tiny"))
    parser.add_argument("--seconds", type=int, default=1800, help="for each count; then it fails")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(measured(json.loads(given.work))))
        return
    phases = {train: gradients(given.model, train) for train in PHASES}
    print("| Trains | Sent by each | Processes | ms a sum: median | fastest | As on a link of |")
    print("|---|---|---|---|---|---|")
    for count in given.processes:
        found = run(count, phases, given.seconds)
        for train, phase in phases.items():
            print(row(train, phase["bytes"], count, found[train]))


def gradients(name: str, train: str) -> dict[str, Any]:
    """Shapes of what is summed; of an embedding only the rows that occur; and its bytes."""
    import keras

    from tf_finetune.fit.traffic import reduced_bytes
    from tf_finetune.model.blocks import layer_groups
    from tf_finetune.model.freezing import set_trainable

    task = model(name, train)
    set_trainable(layer_groups(task.network, task.backbone), train)
    tables = {
        id(layer._embeddings)
        for layer in task.network._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
    }
    dense: list[tuple[int, ...]] = []
    sparse: list[tuple[int, ...]] = []
    for variable in task.network.trainable_variables:
        (sparse if id(variable) in tables else dense).append(tuple(variable.shape))
    return {"dense": dense, "sparse": sparse, "bytes": reduced_bytes(task.network, ROWS * TOKENS)}


def run(count: int, phases: dict[str, Any], limit: int) -> dict[str, tuple[float, float]]:
    """Median and least seconds of a sum by phase, as the first process measures them."""
    command = [sys.executable, __file__, "--work", json.dumps(phases)]
    running = [
        subprocess.Popen(command, env=os.environ | around, stdout=subprocess.PIPE, text=True)
        for around in environments(count)
    ]
    end = time.monotonic() + limit
    try:
        said = [p.communicate(timeout=max(1, end - time.monotonic()))[0] for p in running]
        if any(process.returncode for process in running):
            raise SystemExit(f"{count} processes: one has failed")
    finally:
        for process in running:
            process.kill()
            process.wait()
    return json.loads(said[0].splitlines()[-1])


def measured(phases: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Median and least seconds of a sum by phase, in one of the processes."""
    import tensorflow as tf

    from tf_finetune.fit.replicas import summed
    from tf_finetune.fit.strategy import strategy_of

    strategy = strategy_of("multi_worker")
    found: dict[str, tuple[float, float]] = {}
    for train, phase in phases.items():
        dense = [tf.random.normal(shape) for shape in phase["dense"]]
        rows = [tf.random.normal([ROWS * TOKENS, *shape[1:]]) for shape in phase["sparse"]]
        places = tf.range(ROWS * TOKENS, dtype=tf.int64)

        def on_replica(
            dense: Any = dense, rows: Any = rows, places: Any = places, phase: Any = phase
        ) -> Any:
            sparse = [
                tf.IndexedSlices(values, places % shape[0], tf.constant(shape))
                for values, shape in zip(rows, phase["sparse"], strict=True)
            ]
            return tf.add_n([tf.reduce_sum(_values(g)[:1]) for g in summed([*dense, *sparse])])

        once = tf.function(lambda step=on_replica: strategy.run(step), autograph=False)
        ends = [time.perf_counter()]
        for _ in range(ROUNDS.get(train, 30) + 3):
            once().numpy()
            ends.append(time.perf_counter())
        rounds = np.diff(ends)[3:]
        found[train] = float(np.median(rounds)), float(rounds.min())
    return found


def _values(gradient: Any) -> Any:
    return getattr(gradient, "values", gradient)


def row(train: str, size: int, count: int, seconds: tuple[float, float]) -> str:
    """A line of the table."""
    median, least = seconds
    gigabits = 2 * (count - 1) / count * size * 8 / least / 1e9
    sent = f"{size / 1e3:.1f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"
    times = f"{1000 * median:.1f} | {1000 * least:.1f}"
    return f"| `{train}` | {sent} | {count} | {times} | {gigabits:.2g} Gbit/s |"


if __name__ == "__main__":
    main()
