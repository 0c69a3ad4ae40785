"""The rate at which training batches of pictures come, against that of the bare decoder.

JPEGs of 500 x 375 pixels are made, decoded and resized to 224 x 224: by Pillow in as many
threads as there are processors, by TensorFlow's own decoder, and as training batches,
decoded each time or kept, without and with augmentation; and Keras's RandAugment for
comparison. What is measured takes turns, and the median of its rounds is told; the
processor's time says the same on a machine that has other things to do.

    python benchmarks/image_input.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf
from PIL import Image

from tf_finetune.data.pictures.augment import picture_noise
from tf_finetune.data.pictures.store import Look, PixelStore, pixel_store
from tf_finetune.data.pictures.threads import processors
from tf_finetune.data.pipeline import Store, training_dataset
from tf_finetune.settings import DataConfig

SIZE = (224, 224)
BATCH = 32


def make_pictures(folder: Path, count: int) -> list[str]:
    """JPEGs with detail of every size, as photographs have it."""
    random = np.random.default_rng(0)
    paths = []
    for i in range(count):
        pixels = np.zeros((375, 500, 3))
        for side in (4, 16, 64, 256):
            noise = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            scaled = Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC)
            pixels += np.asarray(scaled) / side**0.5
        path = folder / f"{i}.jpg"
        Image.fromarray((pixels / pixels.max() * 255).astype(np.uint8)).save(path, quality=90)
        paths.append(str(path))
    return paths


def by_pillow(paths: list[str], pool: ThreadPoolExecutor) -> None:
    """Decodes and resizes, and nothing else."""

    def decode(path: str) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.BILINEAR))

    for _ in pool.map(decode, paths):
        pass


def by_tensorflow(paths: list[str]) -> None:
    """Decodes and resizes by TensorFlow's operations."""

    def decode(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), 3)
        return tf.cast(tf.image.resize(image, SIZE, antialias=True), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(paths).map(decode, tf.data.AUTOTUNE)
    for _ in dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE):
        pass


class Counted:
    """A store that counts the pictures it gives: datasets ask for some ahead."""

    def __init__(self, store: Store) -> None:
        self.lengths, self.ahead, self.given = store.lengths, getattr(store, "ahead", 0), 0
        self._store = store

    def batch(self, rows: np.ndarray) -> np.ndarray:
        self.given += len(rows)
        return self._store.batch(rows)


def by_batches(store: Store, count: int, data: DataConfig) -> Callable[[], int]:
    """Takes one epoch of training batches at each call, and tells how many were made."""
    counted = Counted(store)
    dataset = training_dataset(
        counted,
        np.zeros(count, np.int32),
        np.arange(count),
        batch_size=BATCH,
        seed=0,
        noise=picture_noise(data),
    )

    def take() -> int:
        before = counted.given
        for _ in dataset.take(-(-count // BATCH)):
            pass
        return counted.given - before

    return take


def by_keras_augmentation(pixels: np.ndarray) -> None:
    """RandAugment by Keras's layer, as one graph."""
    for start in range(0, len(pixels), BATCH):
        _keras_layer(pixels[start : start + BATCH])


_LAYER = keras.layers.RandAugment(value_range=(0, 255), num_ops=2, factor=0.3, seed=0)


@tf.function(reduce_retracing=True)
def _keras_layer(batch: tf.Tensor) -> tf.Tensor:
    return tf.cast(_LAYER(tf.cast(batch, tf.float32), training=True), tf.uint8)


def main() -> None:
    """Reads the command line, takes the times and prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    count = options.count
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(processors()) as pool:
        paths = make_pictures(Path(name), count)
        look, rows = Look(size=SIZE, how="squash"), np.arange(count)
        decoding = PixelStore(paths, look, rows)
        kept = pixel_store(pa.table({"image": paths}), rows, Path(name), "", look)
        few = kept.batch(rows[: 2 * BATCH])
        ways: dict[str, tuple[int, Callable[[], int | None]]] = {
            "bare decoder: Pillow in threads": (count, lambda: by_pillow(paths, pool)),
            "bare decoder: TensorFlow": (count, lambda: by_tensorflow(paths)),
            "batches, decoded each time": (count, by_batches(decoding, count, DataConfig())),
            "batches, kept": (count, by_batches(kept, count, DataConfig())),
            "batches, kept, augment=medium": (
                count,
                by_batches(kept, count, DataConfig(augment="medium", flip=True)),
            ),
            "keras.layers.RandAugment alone": (len(few), lambda: by_keras_augmentation(few)),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        costs: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(options.rounds + 1):
            for way, (pictures, run) in ways.items():
                began, busy = time.perf_counter(), time.process_time()
                made = run() or pictures
                if turn:  # the first one warms up
                    rates[way].append(pictures / (time.perf_counter() - began))
                    costs[way].append((time.process_time() - busy) / made)
    bare = statistics.median(rates["bare decoder: Pillow in threads"])
    for way, found in rates.items():
        rate, cost = statistics.median(found), statistics.median(costs[way])
        print(
            f"{way:34} {rate:8,.0f} pictures/s {rate / bare:7.0%} of Pillow alone, "
            f"{cost * 1e3:6.2f} ms of a processor for one"
        )


if __name__ == "__main__":
    main()
