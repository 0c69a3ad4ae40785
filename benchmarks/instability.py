"""Do the guards hold? A rate ten times too high, and 5% of the training labels wrong.

The reviews recipe on 1,024 rows at 1e-3 instead of 1e-4, with labels turned over at
random, five seeds: with the default guards (gradient clipping, warm-up, spike guard, and
the start of a phase as a candidate for its best), and without the first three. A run has
collapsed if its test accuracy is within five points of always naming one class, or its
training ended in an error. Finished runs are kept in `--out`.

    python benchmarks/instability.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from records import in_a_thrown_away_folder, once, spread

from tf_finetune import UserError
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.prepare import prepare
from tf_finetune.recipe import load_recipe

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reviews.py"
WRONG = 0.05
COLLAPSED = 0.55


def recipe(phases: str, guarded: bool, seed: int, rows: int, rate: float) -> FineTuneConfig:
    """The reviews recipe with that rate, with or without its guards."""
    config = load_recipe(CONFIG)
    config.phases = phases
    config.data.limit = rows
    config.data.seed = config.fit.seed = seed
    config.fit.learning_rate = rate
    config.data.validation = "0.03"
    config.results.export = config.results.probe_baseline = False
    if not guarded:
        config.fit.clip = config.fit.warmup = 0.0
        config.fit.spike_guard = 0
    return config


def write_rows(config: FineTuneConfig, folder: Path) -> set[int]:
    """Writes the run's splits with some training labels turned over, and points to them.

    Returns:
        The lines of the training file, from 1 on, of which the label was turned over.
    """
    prepared, wrong = prepare(config, folder), set[int]()
    texts = prepared.table.column("text")
    for name, rows in prepared.splits.items():
        labels = prepared.labels[rows].copy()
        if name == "train":
            generator = np.random.default_rng(config.data.seed)
            turned = generator.permutation(len(rows))[: round(WRONG * len(rows))]
            labels[turned] = 1 - labels[turned]
            wrong = {int(place) + 1 for place in turned}
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
            for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
                lines.write(json.dumps({"text": texts[row].as_py(), "label": label}) + "\n")
    config.data.path, config.data.where = str(folder / "train.jsonl"), ""
    config.data.validation = str(folder / "validation.jsonl")
    config.data.test = str(folder / "test.jsonl")
    return wrong


def run(config: FineTuneConfig) -> dict[str, Any]:
    """Fine-tunes on the rows with wrong labels."""

    def measured(result: Any) -> dict[str, Any]:
        card, tune = result.metrics, result.metrics["phases"][-1]
        return {
            "test": card["test"]["accuracy"],
            "validation": card["validation"]["accuracy"],
            "best_epoch": tune["best_epoch"],
            "skipped": tune["skipped"],
        }

    with tempfile.TemporaryDirectory() as folder:
        write_rows(config, Path(folder))
        try:
            return in_a_thrown_away_folder(config, measured)
        except UserError as error:
            return {"test": None, "error": str(error)}


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--rows", type=int, default=1024, help="training rows; 0 means all")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--recipes", default="full,probe_then_tune")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/instability.jsonl"))
    options = parser.parse_args()
    print("| recipe | guards | collapsed | test accuracy |", "|---|---|---|---|", sep="\n")
    for phases in options.recipes.split(","):
        for guarded in (True, False):
            found = []
            for seed in map(int, options.seeds.split(",")):
                config = recipe(phases, guarded, seed, options.rows, options.rate)
                key: dict[str, Any] = {"recipe": phases, "guarded": guarded, "seed": seed}
                key |= {"rows": options.rows, "rate": options.rate}
                found.append(once(options.out, key, partial(run, config))["test"])
            scores = [score for score in found if score is not None]
            collapsed = sum(score is None or score < COLLAPSED for score in found)
            accuracy = spread(scores, 3) if scores else "none finished"
            guards = "with" if guarded else "without"
            print(f"| {phases} | {guards} | {collapsed} of {len(found)} | {accuracy} |")


if __name__ == "__main__":
    main()
