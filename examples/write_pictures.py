"""Writes pictures that come with packages as a folder by class, for a run to train on.

    python examples/write_pictures.py fashion_mnist pictures/fashion_mnist

- `fashion_mnist`: clothes, 28 x 28 grey (Xiao et al. 2017, arXiv:1708.07747), from Debian's
  package: `sudo apt install dataset-fashion-mnist`. 2,000 of its training pictures, 500 for
  validation, and 1,000 of its test pictures; `--rows` takes others.
- `digits`: scikit-learn's 1,797 handwritten digits, 8 x 8 grey.
- `emoji`: 64 x 64 in colour, by category, from npm:
  `npm pack emoji-datasource-google@16 && tar xzf emoji-datasource-google-16.0.0.tgz`, which
  makes the folder `package` that `--source` names.
"""

import argparse
import gzip
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

FASHION = Path("/usr/share/datasets/fashion-mnist")
CLOTHES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# What a picture is called, its split ("" where a run makes its own), class and pixels.
Named = tuple[str, str, str, Image.Image]


def fashion_mnist(source: Path, rows: int) -> Iterator[Named]:
    """The first rows of each part; validation comes from behind the training rows."""
    if not source.is_dir():
        raise SystemExit(f"{source} is not there; run: sudo apt install dataset-fashion-mnist")
    for split, part, start, count in (
        ("train", "train", 0, rows),
        ("validation", "train", 55_000, max(rows // 4, 100)),
        ("test", "t10k", 0, max(rows // 2, 200)),
    ):
        pixels = _idx(source / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = _idx(source / f"{part}-labels-idx1-ubyte.gz", 8)
        for i in range(start, min(start + count, len(labels))):
            yield f"{part}-{i:05d}", split, CLOTHES[labels[i]], Image.fromarray(pixels[i])


def digits(source: Path, rows: int) -> Iterator[Named]:
    """Of 17 grey levels, made 256."""
    from sklearn.datasets import load_digits

    found = load_digits()
    for i, (pixels, label) in enumerate(zip(found.images, found.target, strict=True)):
        yield f"{i:04d}", "", str(label), Image.fromarray((pixels * 255 / 16).astype(np.uint8))


def emoji(source: Path, rows: int) -> Iterator[Named]:
    """One picture of each emoji, without variants of skin colour."""
    for entry in json.loads((source / "emoji.json").read_text("utf-8")):
        file = source / "img" / "google" / "64" / entry["image"]
        if file.exists() and entry["category"] != "Component":
            yield file.stem, "", entry["category"].lower().replace(" & ", "-"), Image.open(file)


def write(pictures: Iterable[Named], folder: Path) -> int:
    """Writes `folder/SPLIT/CLASS/NAME.png`, without `SPLIT` where there is none."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    count = 0
    for name, split, label, image in pictures:
        place = unfinished / split / label
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{name}.png")
        count += 1
    unfinished.rename(folder)
    return count


def _idx(file: Path, header: int) -> np.ndarray:
    with gzip.open(file) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=header)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sets = {"fashion_mnist": fashion_mnist, "digits": digits, "emoji": emoji}
    parser.add_argument("name", choices=sets)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path, default=FASHION, help="of fashion_mnist or emoji")
    parser.add_argument("--rows", type=int, default=2000, help="to train on, of fashion_mnist")
    given = parser.parse_args()
    if given.folder.exists():
        print(f"{given.folder} is there.")
    else:
        given.folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"{write(sets[given.name](given.source, given.rows), given.folder)} pictures")
