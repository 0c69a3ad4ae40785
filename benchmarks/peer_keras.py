"""The peer: `fit` of KerasHub's text classifier, as its guide has it, in TensorFlow.

Imports nothing of tf_finetune. It reads and writes what `peer_trainer.py` reads and writes:

    python benchmarks/peer_keras.py --rows=ROWS --model=MINILM_FOLDER --out=peer.json \
        --learning-rate=5e-5 --seed=0
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

SPLITS = ("train", "validation", "test")


class Clock(keras.callbacks.Callback):
    """Notes when the first step was done, how long epochs took, and when each was judged."""

    def __init__(self, began: float) -> None:
        super().__init__()
        self.process_began, self.first_step = began, 0.0
        self.epoch_seconds: list[float] = []
        self.validated_at: list[float] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.began = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch_began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.first_step = self.first_step or time.perf_counter() - self.began

    def on_test_begin(self, logs: Any = None) -> None:
        self.epoch_seconds.append(time.perf_counter() - self.epoch_began)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.validated_at.append(time.time() - self.process_began)


def read(options: argparse.Namespace, name: str) -> tf.data.Dataset:
    """A split in batches of texts and labels, the training one shuffled."""
    with (options.rows / f"{name}.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [row["text"] for row in rows]
    data = tf.data.Dataset.from_tensor_slices((texts, np.array([row["label"] for row in rows])))
    if name == "train":
        data = data.shuffle(len(rows), seed=options.seed)
    return data.batch(options.batch if name == "train" else 128)


def freeze(model: Any, train: str) -> None:
    """Leaves trainable what `train` says: all, the head, or the last blocks and the head."""
    if train == "all":
        return
    backbone = model.backbone
    blocks = [x for x in backbone.layers if isinstance(x, keras_hub.layers.TransformerEncoder)]
    count = 0 if train == "head" else int(train.removeprefix("last:"))
    last = blocks[len(blocks) - count :]
    for layer in backbone.layers:
        layer.trainable = any(layer is block for block in last)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tunes and scores on test."""
    keras.utils.set_random_seed(options.seed)
    splits = {name: read(options, name) for name in SPLITS}
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor.from_preset(
        options.model, sequence_length=options.max_tokens
    )
    model = keras_hub.models.BertTextClassifier.from_preset(
        options.model, num_classes=2, preprocessor=preprocessor
    )
    freeze(model, options.train)
    model.compile(
        optimizer=keras.optimizers.Adam(options.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    clock = Clock(options.began)
    history = model.fit(
        splits["train"],
        validation_data=splits["validation"],
        epochs=options.epochs,
        callbacks=[clock],
        verbose=0,
    )
    size = sum(len(labels) for _, labels in splits["train"])
    _, test = model.evaluate(splits["test"], verbose=0)
    return {
        "test_accuracy": float(test),
        "validation": [float(score) for score in history.history["val_accuracy"]],
        "validated_at": clock.validated_at,
        "epochs": options.epochs,
        "epoch_seconds": clock.epoch_seconds[-1],
        "examples_per_second": size / clock.epoch_seconds[-1],
        "first_step_seconds": clock.first_step,
        "versions": {"keras": keras.__version__, "keras_hub": keras_hub.__version__},
    }


def main() -> None:
    """Reads the command line, runs, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True, help="folder of the JSONL splits")
    parser.add_argument("--model", required=True, help="Hugging Face folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", default="all", help="all, head or last:K")
    parser.add_argument("--began", type=float, default=time.time(), help="seconds since 1970")
    options = parser.parse_args()
    options.out.write_text(json.dumps(run(options), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
