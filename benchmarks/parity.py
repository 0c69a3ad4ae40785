"""How far a training on several devices or in several processes is from that on one device.

A random BERT of two small layers and the packaged MiniLM, with a new head, a few updates
without dropout, by SGD and by AdamW: on one device, two CPU devices, and 2 and 4 processes on
this machine. Prints the table of docs/scaling.md: the largest difference between any two weights,
whether the workers are equal bit for bit, what an update took, and the bytes summed in it.

    python benchmarks/parity.py
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROWS, BATCH, TOKENS = 96, 24, 32
PLACES = ("none", "mirrored", "2 processes", "4 processes")
KINDS = ("SGD", "AdamW", "AdamW, head", "AdamW, LoRA")
MODELS = ("tiny", "MiniLM")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--places", nargs="*", default=PLACES, choices=PLACES)
    parser.add_argument("--seconds", type=int, default=1800, help="for each place; then it fails")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--trainings", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        strategy, file = given.work
        work(strategy, file, given.trainings)
        return
    kinds = [f"{model}, {kind}" for model in given.models for kind in given.kinds]
    print("| Training | On | Largest difference | Workers equal | Seconds an update | Summed |")
    print("|---|---|---|---|---|---|")
    base = run(PLACES[0], kinds, given.seconds)
    for place in given.places:
        found = base if place == PLACES[0] else run(place, kinds, given.seconds)
        for kind in kinds:
            print(row(kind, place, base[0], found), flush=True)


def row(kind: str, place: str, base: dict[str, Any], found: list[dict[str, Any]]) -> str:
    """A line of the table."""
    weights = [name for name in base if name.startswith(f"{kind}/w")]
    far = max(float(abs(one[w] - base[w]).max()) for one in found for w in weights)
    same = all(np.array_equal(one[w], found[0][w]) for one in found for w in weights)
    seconds, summed = float(found[0][f"{kind}/seconds"]), int(found[0][f"{kind}/bytes"]) / 1e6
    equal = "-" if len(found) == 1 else "yes" if same else "no"
    name = {"none": "one device", "mirrored": "2 CPU devices"}.get(place, place)
    return f"| {kind} | {name} | {far:.1e} | {equal} | {seconds:.2f} | {summed:.3f} MB |"


def run(place: str, kinds: list[str], limit: int) -> list[dict[str, Any]]:
    """Weights and figures from each process; all are killed after `limit` seconds."""
    count = int(place[0]) if place[0].isdigit() else 1
    strategy = "multi_worker" if count > 1 else place
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{i}.npz") for i in range(count)]
        running = [
            subprocess.Popen(
                [sys.executable, __file__, "--work", strategy, str(file), "--trainings", *kinds],
                env=os.environ | around,
            )
            for file, around in zip(files, environments(count), strict=True)
        ]
        end = time.monotonic() + limit
        try:
            for process in running:
                if process.wait(max(1, end - time.monotonic())):
                    raise SystemExit(f"{place}: a process ended with {process.returncode}")
        finally:
            for process in running:
                process.kill()
                process.wait()
        return [dict(np.load(file)) for file in files]


def environments(count: int) -> list[dict[str, str]]:
    """What the processes are told of each other."""
    common = {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "8",
        "TF_FINETUNE_LOGICAL_CPUS": "2",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    if count == 1:
        return [common]
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    cluster = {"worker": [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]}
    for each in sockets:
        each.close()
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(count)]
    return [common | {"TF_CONFIG": json.dumps(task)} for task in tasks]


def work(strategy: str, file: str, kinds: list[str]) -> None:
    """One process: trains, and writes its weights and figures."""
    from tf_finetune.fit.strategy import strategy_of

    with strategy_of(strategy).scope():
        found = {f"{kind}/{k}": v for kind in kinds for k, v in trained(kind).items()}
    arrays: dict[str, Any] = found
    np.savez(file, **arrays)


def trained(kind: str) -> dict[str, Any]:
    """A model's weights after a few updates, the seconds of each, and the bytes summed."""
    import keras
    import tensorflow as tf

    from tf_finetune import Phase, fit_phases
    from tf_finetune.fit.traffic import reduced_bytes

    name, _, kind = kind.partition(", ")
    train = {"AdamW, head": "head", "AdamW, LoRA": "lora"}.get(kind, "all")
    task = model(name, train)
    random = np.random.default_rng(0)
    x = {
        "token_ids": random.integers(1000, 20000, (ROWS, TOKENS)).astype("int32"),
        "padding_mask": np.ones((ROWS, TOKENS), "int32"),
        "segment_ids": np.zeros((ROWS, TOKENS), "int32"),
    }
    y = random.integers(0, 2, ROWS).astype("int32")
    watch = Watch()
    rate = 0.05 if kind == "SGD" else 1e-4 if train == "all" else 1e-3
    fit_phases(
        task.network,
        tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH),
        None,
        [Phase(train=train, epochs=2, learning_rate=rate)],
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.SGD(0.1) if kind == "SGD" else None,
        callbacks=[watch.callback()],
        backbone=task.backbone,
        say=lambda line: None,
    )
    rows = -(-BATCH // tf.distribute.get_strategy().num_replicas_in_sync) * TOKENS
    figures = {"seconds": watch.median(), "bytes": reduced_bytes(task.network, rows)}
    return figures | {f"w{i}": v.numpy() for i, v in enumerate(task.network.weights)}


def model(name: str, train: str) -> Any:
    """One of `MODELS` with a new head, without dropout."""
    import keras
    import keras_hub

    from tf_finetune.model import backbones
    from tf_finetune.model.lora import add_lora
    from tf_finetune.model.task import TextTask

    keras.utils.set_random_seed(0)
    if name == "tiny":
        backbone = keras_hub.models.BertBackbone(20000, 2, 2, 32, 64, dropout=0.0)
        exact = False
    else:
        loaded = backbones.load("minilm")
        backbone, exact = loaded.backbone, loaded.exact_gelu
        for layer in backbone._flatten_layers():
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
    task = TextTask(backbone, None, "classification", ("a", "b"), dropout=0.0, exact_gelu=exact)
    if train == "lora":
        add_lora(task.network, 8, 16.0, backbone=task.backbone)
    return task


class Watch:
    """Seconds of each update but the first, in which TensorFlow traces."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def callback(self) -> Any:
        import keras

        return keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: self._ends.append(time.perf_counter())
        )

    def median(self) -> float:
        return float(np.median(np.diff(self._ends)))


if __name__ == "__main__":
    main()
