"""How fast on pictures, beside plain Keras: steps of all blocks, of the last two, and the first.

Each pair runs ours and the peer (`peer_images.py`) one after the other on the same split of the
same pictures, from the same EfficientNet-Lite0 and in float32, in batches of 32, without
augmentation. Shown are medians over the pairs of training examples a second in the last epoch, and
of the seconds of the first step. Every finished run is kept in `--out`. Run nothing else meanwhile.

    python examples/write_pictures.py fashion_mnist pictures/fashion_mnist
    python benchmarks/image_speed.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from images import CONFIGS, run_peer
from records import once
from text_vs_trainer import timed, write_split

from tf_finetune.overrides import override
from tf_finetune.recipe import load_recipe

FIXED = ("data.augment=none", "data.flip=False", "fit.precision=float32", "phases=full")
ASIDE = ("results.export=False", "results.probe_baseline=False", "results.drift=False")
# By name: what our recipe is told, the epochs of both, and the blocks that the peer trains.
WORK = {
    "all": (("fit.epochs=2",), 2, 0),
    "last two blocks": (("fit.train=last:2", "fit.epochs=5"), 5, 2),
}


def run_ours(settings: list[str], folder: Path) -> dict[str, Any]:
    """One run of the command line."""
    command = [sys.executable, "-m", "tf_finetune.main", f"--config={CONFIGS / 'fashion_mnist.py'}"]
    seconds = timed([*command, *settings, f"--workdir={folder / 'run'}"])
    card = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    (phase,) = card["phases"]
    return {
        "rate": phase["history"][-1]["examples_per_second"],
        "first": phase["first_step_seconds"],
        "seconds": seconds,
        "test": card["test"]["accuracy"],
    }


def begin_of(blocks: int) -> str:
    """The first layer of so many last blocks; empty for none."""
    from tf_finetune.model.blocks import layer_groups
    from tf_finetune.model.lite0 import PACKAGED, load_lite0
    from tf_finetune.packaged import packaged_path

    base = load_lite0(packaged_path(PACKAGED))
    return layer_groups(base, base).blocks[-blocks][0].name if blocks else ""


def run_pair(name: str, pair: int, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours and the peer, on the split that ours makes."""
    given, epochs, blocks = WORK[name]
    seeds = (f"data.seed={pair}", f"fit.seed={pair}")
    settings = [f"--config.{one}" for one in (*seeds, *FIXED, *ASIDE, *given)]
    config = override(load_recipe(CONFIGS / "fashion_mnist.py"), settings)[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        digest, size = write_split(config, folder, "image"), config.model.image_size
        rows = len((folder / "train.jsonl").read_text(encoding="utf-8").splitlines())
        told = ("--head=0", f"--all={epochs}", f"--begin={begin_of(blocks)}")
        key = {"work": name, "pair": pair, "rows": {"digest": digest}}
        ours = once(out, key | {"who": "ours"}, partial(run_ours, settings, folder))
        peer = once(out, key | {"who": "keras"}, partial(run_peer, told, size, pair, folder))
    last = peer["epochs"][-1]
    rate = rows / last["train_seconds"]
    return ours, {"rate": rate, "first": peer["first_step_seconds"], "test": last["test"]}


def cells(pairs: list[tuple[dict[str, Any], dict[str, Any]]], figure: str, digits: int) -> str:
    """Ours, Keras, and how far ahead, with the range."""
    sides = [[side[figure] for side in each] for each in zip(*pairs, strict=True)]
    ratios = [a / b if figure == "rate" else b / a for a, b in zip(*sides, strict=True)]
    shown = [f"{statistics.median(side):.{digits}f}" for side in sides]
    ahead = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return " | ".join([*shown, ahead])


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/image_speed.jsonl"))
    options = parser.parse_args()
    found = {
        name: [run_pair(name, pair, options.out) for pair in range(options.pairs)] for name in WORK
    }
    print("| work | ours | Keras | ahead by |", "|---" * 4 + "|", sep="\n")
    for name, pairs in found.items():
        print(f"| {name}, examples a second | {cells(pairs, 'rate', 0)} |")
    print(f"| first step of all blocks, seconds | {cells(found['all'], 'first', 1)} |")


if __name__ == "__main__":
    main()
