"""What the packaged weights of EfficientNet-Lite0 were trained with, by what they remember.

    python benchmarks/lite0_inputs.py --photos=FOLDER --probe=FOLDER [--probe=FOLDER]

Batch normalisation keeps the mean and the variance of what went through each of its 49
layers in training. The right padding, epsilon and scaling of pixels are those with which
photos give statistics most like them. Each layer counts once, by the median of its channels;
random crops of 8% to all of a photo stand for training's. For a folder of pictures by class
(`examples/write_pictures.py` writes some) there is the accuracy of a logistic regression on
the frozen features too, with the standard error of five folds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tf_finetune.data.pictures.decode import decode, open_picture
from tf_finetune.data.pictures.store import Look
from tf_finetune.model.lite0 import PACKAGED, SamePaddedEfficientNet, convert
from tf_finetune.packaged import packaged_path

SCALINGS = {
    "127 / 128": ((127.0,) * 3, (128.0,) * 3),
    "ImageNet's": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "0 to 1": ((0.0,) * 3, (255.0,) * 3),
}
CROPS, BATCH = 8, 16


def crops(folder: Path) -> np.ndarray:
    """(n, 224, 224, 3) float32, `CROPS` random ones of each photo."""
    random = np.random.default_rng(0)
    made = []
    for path in sorted(folder.iterdir()):
        photo = decode(open_picture(str(path)))
        for _ in range(CROPS):
            area = random.uniform(0.08, 1) * photo.width * photo.height
            shape = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
            width = min(photo.width, (area * shape) ** 0.5)
            height = min(photo.height, (area / shape) ** 0.5)
            left = random.uniform(0, photo.width - width)
            top = random.uniform(0, photo.height - height)
            box = (left, top, left + width, top + height)
            made.append(np.asarray(photo.resize((224, 224), Image.Resampling.BICUBIC, box)))
    return np.stack(made).astype("float32")


def labelled(folder: Path, each: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `each` pictures of each class, uint8, and the number of their class."""
    random, look = np.random.default_rng(0), Look(size=(side, side), interpolation="bicubic")
    pixels, labels = [], []
    for label, place in enumerate(sorted(folder.iterdir())):
        for path in random.permutation(sorted(place.iterdir()))[:each]:
            pixels.append(look.of(str(path)))
            labels.append(label)
    return np.stack(pixels), np.array(labels)


def outputs_of(
    outputs: Sequence[keras.KerasTensor], inputs: keras.KerasTensor
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """What a graph gives for pictures, in inference mode."""
    model = keras.Model(inputs, list(outputs))
    step = tf.function(lambda y: model(y, training=False), reduce_retracing=True)

    def of(x: np.ndarray) -> list[np.ndarray]:
        parts = [tf.nest.flatten(step(x[i : i + BATCH])) for i in range(0, len(x), BATCH)]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    return of


def moments_of(backbone: keras.Model) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Of each picture and channel the mean and mean square of what each norm is given."""
    wanted = []
    for layer in norms_of(backbone):
        wanted += [keras.ops.mean(layer.input, (1, 2)), keras.ops.mean(layer.input**2, (1, 2))]
    return outputs_of(wanted, backbone.input)


def norms_of(backbone: keras.Model) -> list[keras.layers.Layer]:
    """The layers of batch normalisation."""
    return [x for x in backbone.layers if isinstance(x, keras.layers.BatchNormalization)]


def agreement(backbone: keras.Model, moments: list[np.ndarray]) -> tuple[float, float]:
    """Distance of means, in standard deviations, and of variances, in logarithms."""
    means, variances = [], []
    for layer, mean, square in zip(norms_of(backbone), moments[::2], moments[1::2], strict=True):
        mean, square = mean.mean(axis=0), square.mean(axis=0)
        kept_mean, kept = layer.moving_mean.numpy(), layer.moving_variance.numpy()
        means.append(np.median(np.abs(mean - kept_mean) / np.sqrt(kept + 1e-3)))
        variances.append(np.median(np.abs(np.log((square - mean**2 + 1e-6) / (kept + 1e-6)))))
    return float(np.mean(means)), float(np.mean(variances))


def probe(features: np.ndarray, labels: np.ndarray) -> str:
    """Accuracy of a logistic regression, and its standard error."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    found = cross_val_score(model, features, labels, cv=5)
    return f"{found.mean():.3f} ± {found.std(ddof=1) / 5**0.5:.3f}"


def backbones() -> Iterator[tuple[str, float, keras.Model]]:
    """Of each padding and epsilon, with the packaged weights."""
    file = packaged_path(PACKAGED)
    for padding, epsilon in itertools.product(("TensorFlow's", "PyTorch's"), (1e-3, 1e-5)):
        backbone = convert(file, epsilon)
        if padding == "TensorFlow's":
            padded = SamePaddedEfficientNet(**backbone.get_config())
            padded.set_weights(backbone.get_weights())
            backbone = padded
        yield padding, epsilon, backbone


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--probe", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--each", type=int, default=50, help="pictures of a class")
    parser.add_argument("--side", type=int, default=128, help="of the pictures of a probe")
    given = parser.parse_args()
    photos = crops(given.photos)
    sets = [labelled(folder, given.each, given.side) for folder in given.probe]
    header = ["padding", "epsilon", "scaling", "means", "variances", *(p.name for p in given.probe)]
    print("| " + " | ".join(header) + " |", "|---" * len(header) + "|", sep="\n")
    for padding, epsilon, backbone in backbones():
        moments = moments_of(backbone)
        features = outputs_of([keras.ops.mean(backbone.output, (1, 2))], backbone.input)
        for name, (mean, std) in SCALINGS.items():

            def scaled(x: np.ndarray, mean: tuple = mean, std: tuple = std) -> np.ndarray:
                return ((x - np.array(mean)) / np.array(std)).astype("float32")

            distances = agreement(backbone, moments(scaled(photos)))
            probes = [probe(features(scaled(x))[0], y) for x, y in sets]
            cells = [padding, f"{epsilon:g}", name, *(f"{d:.3f}" for d in distances), *probes]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
