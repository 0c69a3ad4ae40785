"""Fine-tuning on pictures, beside Keras's own transfer-learning recipe: accuracy and time.

For each seed, one process after another on the same split of the same pictures and from the
same EfficientNet-Lite0: our recipe as a user types it, with checks, report and verified export;
and the peer (`peer_images.py`), a new head for 10 epochs and then everything for 10. Of the peer
the epoch counts that is best on validation, and beside it the best of those that had ended when
our process ended. `head` is the head alone, 10 epochs, of pictures as they are. Every finished
run is kept in `--out`; the same command goes on from there. Run nothing else meanwhile.

    python examples/write_pictures.py fashion_mnist pictures/fashion_mnist
    python examples/write_pictures.py emoji pictures/emoji --source package
    python benchmarks/images.py
    python benchmarks/images.py --data=fashion_mnist --work=head --seeds=0
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from records import once, spread
from text_vs_trainer import HERE, timed, write_split

from tf_finetune.overrides import override
from tf_finetune.recipe import load_recipe

CONFIGS = HERE.parent / "configs"
# By name: what our recipe is told, and the peer.
WORK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "whole": ((), ("--head=10", "--all=10")),
    "head": (
        ("phases=probe", "fit.probe_epochs=10", "data.augment=none", "data.flip=False"),
        ("--head=10", "--all=0"),
    ),
}


def run_ours(data: str, settings: list[str], digest: str, folder: Path) -> dict[str, Any]:
    """One run of the command line, on the split of this digest."""
    command = [sys.executable, "-m", "tf_finetune.main", f"--config={CONFIGS / f'{data}.py'}"]
    seconds = timed([*command, *settings, f"--workdir={folder / 'run'}"])
    card = json.loads((folder / "run" / "metrics.json").read_text(encoding="utf-8"))
    if card["data_digest"] != digest:
        raise RuntimeError("the run was made on another split than the peer's; nothing to compare")
    return {
        "seconds": seconds,
        "validation": card["validation"]["accuracy"],
        "test": card["test"]["accuracy"],
        "train_seconds": card["train_seconds"],
    }


def run_peer(told: tuple[str, ...], size: int, seed: int, folder: Path) -> dict[str, Any]:
    """One run of the peer."""
    out = folder / "peer.json"
    command = [sys.executable, str(HERE / "peer_images.py"), f"--rows={folder}", f"--out={out}"]
    timed([*command, f"--size={size}", f"--seed={seed}", *told, f"--began={time.time()}"])
    return json.loads(out.read_text(encoding="utf-8"))


def run_pair(data: str, work: str, seed: int, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours and the peer, on the split that ours makes."""
    given, told = WORK[work]
    settings = [f"--config.{s}" for s in (f"data.seed={seed}", f"fit.seed={seed}", *given)]
    config = override(load_recipe(CONFIGS / f"{data}.py"), settings)[0]
    if config.data.flip:
        told = (*told, "--flip")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        digest, size = write_split(config, folder, "image"), config.model.image_size
        key = {"data": data, "seed": seed, "rows": {"digest": digest}}
        run = partial(run_ours, data, settings, digest, folder)
        ours = once(out, key | {"ours": settings}, run)
        peer = once(out, key | {"peer": [*told, size]}, partial(run_peer, told, size, seed, folder))
    return ours, peer


def best(epochs: list[dict[str, float]]) -> dict[str, float]:
    """The epoch that is best on validation, the first of equals."""
    return max(epochs, key=lambda row: row["validation"])


def line(name: str, pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """A line of the table: accuracies and seconds of both sides."""
    ours, peers = [our for our, _ in pairs], [peer["epochs"] for _, peer in pairs]
    seconds, last = [our["seconds"] for our in ours], [epochs[-1]["seconds"] for epochs in peers]
    # Before its first epoch has ended the peer has no model: then that one counts.
    in_time = [
        [epoch for epoch in epochs if epoch["seconds"] <= ended] or epochs[:1]
        for epochs, ended in zip(peers, seconds, strict=True)
    ]
    ratios = [theirs / own for theirs, own in zip(last, seconds, strict=True)]
    cells = [
        name,
        spread([our["test"] for our in ours], 3),
        spread(seconds, 0),
        spread([best(epochs)["test"] for epochs in peers], 3),
        spread(last, 0),
        spread([best(epochs)["test"] for epochs in in_time], 3),
        f"{statistics.median(ratios):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="fashion_mnist,emoji")
    parser.add_argument("--work", default=",".join(WORK))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/images.jsonl"))
    options = parser.parse_args()
    lines = []
    for data in options.data.split(","):
        for work in options.work.split(","):
            pairs = [run_pair(data, work, int(s), options.out) for s in options.seeds.split(",")]
            lines.append(line(f"{data}, {work}", pairs))
    titles = ("ours", "s", "peer", "s", "peer in our time", "peer's time / ours")
    print(f"| | {' | '.join(titles)} |", "|---" * 7 + "|", *lines, sep="\n")


if __name__ == "__main__":
    main()
