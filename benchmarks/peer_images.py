"""The peer: Keras's transfer-learning recipe, as its guide has it, on EfficientNet-Lite0.

The base is frozen while a new head trains at 1e-3, then everything trains at 1e-5, with the
base in inference mode (https://keras.io/guides/transfer_learning/). Of tf_finetune it imports
the reader of the weights alone, for which plain Keras has none:

    python benchmarks/peer_images.py --rows=ROWS --out=peer.json --size=96 --head=10 --all=10

ROWS holds `train.jsonl`, `validation.jsonl` and `test.jsonl`: a picture's path and label a line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.model.lite0 import MEAN, PACKAGED, STD, load_lite0
from tf_finetune.packaged import packaged_path


class Clock(keras.callbacks.Callback):
    """Notes after each epoch the seconds so far, and scores on test, which do not count."""

    def __init__(self, began: float, test: tf.data.Dataset) -> None:
        super().__init__()
        self._began, self._test, self._aside = began, test, 0.0
        self.epochs: list[dict[str, float]] = []
        self.first_steps: list[float] = []  # one for each `fit`

    def on_train_begin(self, logs: Any = None) -> None:
        self._fitted, self._stepped = time.time(), False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._stepped:
            self._stepped = True
            self.first_steps.append(time.time() - self._fitted)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._trains, self._testing = time.time(), False

    def on_test_begin(self, logs: Any = None) -> None:
        if not self._testing:
            self._testing, self._trained = True, time.time() - self._trains

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.time()
        _, accuracy = self.model.evaluate(self._test, verbose=0)
        self.epochs.append(
            {
                "seconds": now - self._began - self._aside,
                "train_seconds": self._trained,
                "validation": float((logs or {})["val_accuracy"]),
                "test": float(accuracy),
            }
        )
        self._aside += time.time() - now


def read(options: argparse.Namespace, name: str) -> tf.data.Dataset:
    """A split in batches of pictures and labels, decoded once, the training one shuffled."""
    with (options.rows / f"{name}.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]

    def decoded(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.cast(tf.io.decode_png(tf.io.read_file(path), channels=4), tf.float32)
        share = image[..., 3:] / 255
        image = image[..., :3] * share + 255 * (1 - share)  # over white, as ours
        return tf.image.resize(image, (options.size, options.size)), label

    labels = np.array([row["label"] for row in rows])
    data = tf.data.Dataset.from_tensor_slices(([row["image"] for row in rows], labels))
    data = data.map(decoded, num_parallel_calls=tf.data.AUTOTUNE).cache()
    if name == "train":
        data = data.shuffle(len(rows), seed=options.seed)
    return data.batch(options.batch).prefetch(tf.data.AUTOTUNE)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tunes, and scores on test after each epoch."""
    keras.utils.set_random_seed(options.seed)
    train, validation, test = (read(options, name) for name in ("train", "validation", "test"))
    classes = 1 + max(int(labels.max()) for _, labels in train.as_numpy_iterator())
    base = load_lite0(packaged_path(PACKAGED))
    base.trainable = False
    inputs = keras.Input((options.size, options.size, 3))
    x = keras.layers.RandomFlip("horizontal")(inputs) if options.flip else inputs
    x = keras.layers.Rescaling(1 / STD, offset=-MEAN / STD)(x)
    x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
    outputs = keras.layers.Dense(classes)(keras.layers.Dropout(0.2)(x))
    model = keras.Model(inputs, outputs)
    clock = Clock(options.began, test)
    for trainable, rate, epochs in ((False, 1e-3, options.head), (True, 1e-5, options.all)):
        if not epochs:
            continue
        base.trainable = trainable
        names = [layer.name for layer in base.layers]
        for layer in base.layers[: names.index(options.begin)] if options.begin else ():
            layer.trainable = False
        model.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        model.fit(
            train,
            validation_data=validation,
            epochs=epochs,
            callbacks=[clock],
            shuffle=False,  # the data shuffle themselves
            verbose=0,
        )
    return {
        "epochs": clock.epochs,
        "first_step_seconds": clock.first_steps[-1],
        "versions": {"keras": keras.__version__},
    }


def main() -> None:
    """Reads the command line, runs, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True, help="folder of the JSONL splits")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--size", type=int, required=True, help="pixels a side")
    parser.add_argument("--head", type=int, default=10, help="epochs of the head alone")
    parser.add_argument("--all", type=int, default=10, help="epochs of everything")
    parser.add_argument("--begin", default="", help="of the base, train from this layer on alone")
    parser.add_argument("--flip", action="store_true", help="mirror pictures at random")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--began", type=float, default=time.time(), help="seconds since 1970")
    options = parser.parse_args()
    options.out.write_text(json.dumps(run(options), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
