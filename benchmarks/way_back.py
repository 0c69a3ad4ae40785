"""How much of the way back from tuned weights costs no accuracy? On the movie reviews.

Tunes on 1,024 training rows as the reviews recipe does, and scores weights between those
before tuning and those after it, none chosen by anything: accuracy on 2,500 of the training
rows that were left out, and, on reviews that `remedies.py` does not report on, what the model
still can do (`retained.py`). No test row is read. It is what the default of `fit.interpolate`
was chosen by.

    python benchmarks/way_back.py
    python benchmarks/way_back.py --seeds=0
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from records import in_a_thrown_away_folder, once, spread
from remedies import recipe
from retained import abilities

from tf_finetune.data.prepare import prepare

ROWS, LEFT_OUT = 1024, 2500
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.4)


def left_out(seed: int) -> tuple[list[str], np.ndarray]:
    """Texts and labels of some training rows that a run of this seed does not train on."""
    few, whole = recipe("no_interpolation", ROWS, seed), recipe("no_interpolation", ROWS, seed)
    whole.data.limit = 0
    found = []
    for config in (few, whole):
        with tempfile.TemporaryDirectory() as folder:
            prepared = prepare(config, Path(folder))
            rows = prepared.splits["train"]
            texts = np.array(prepared.table["text"].to_pylist(), object)[rows]
            found.append((texts, prepared.labels[rows]))
    (used, _), (texts, labels) = found
    free = np.flatnonzero(~np.isin(texts.astype(str), used.astype(str)))
    chosen = np.random.default_rng(0).permutation(free)[:LEFT_OUT]
    return texts[chosen].tolist(), labels[chosen]


def sweep(seed: int) -> dict[str, Any]:
    """By share of the tuned weights: accuracy on the left-out rows, and abilities."""
    texts, labels = left_out(seed)
    start: list[np.ndarray] = in_a_thrown_away_folder(
        recipe("probe", ROWS, seed), lambda result: {"weights": result.model.get_weights()}
    )["weights"]

    def scored(result: Any) -> dict[str, Any]:
        model, found = result.model, {}
        end = model.get_weights()
        for share in SHARES:
            model.set_weights([a + share * (b - a) for a, b in zip(start, end, strict=True)])
            right = model.predict(texts, batch_size=128).argmax(axis=1) == labels
            found[str(share)] = {"left_out": float(right.mean()), **abilities(model, skip=1000)}
        return found

    return in_a_thrown_away_folder(recipe("no_interpolation", ROWS, seed), scored)


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2,3")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/way_back.jsonl"))
    options = parser.parse_args()
    found = [
        once(
            options.out, {"seed": seed, "rows": ROWS, "shares": list(SHARES)}, partial(sweep, seed)
        )
        for seed in map(int, options.seeds.split(","))
    ]
    print("| share of the tuned weights | left-out rows | halves found | accuracy on IMDb |")
    print("|---|---|---|---|")
    for share in map(str, SHARES):
        cells = [
            spread([one[share][figure] for one in found], 3)
            for figure in ("left_out", "recall", "shift")
        ]
        print(" | ".join([f"| {share}", *cells]) + " |")


if __name__ == "__main__":
    main()
