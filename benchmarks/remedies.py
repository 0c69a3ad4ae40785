"""Which recipe, for how many rows? Test accuracy of each on the movie reviews.

Runs of the reviews recipe in one process: 64, 256, 1,024 and all training rows, five
seeds each, which choose split, rows and order. Every run keeps its best epoch by
validation; the test rows are read once a run and choose nothing. Finished runs are kept
in `--out`; the same command goes on from there.

    python benchmarks/remedies.py
    python benchmarks/remedies.py --rows=64 --recipes=full,probe_then_tune --seeds=0,1
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from records import once, spread

from tf_finetune import fine_tune
from tf_finetune.config import FineTuneConfig
from tf_finetune.recipe import load_recipe

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reviews.py"
RECIPES = "full,probe,probe_then_tune,gradual,lora"


def recipe(name: str, rows: int, seed: int) -> FineTuneConfig:
    """The reviews recipe with these phases, training rows and seed."""
    config = load_recipe(CONFIG)
    config.phases = name
    config.data.limit = rows
    config.data.seed = config.fit.seed = seed
    config.results.export = config.results.probe_baseline = False
    return config


def run(config: FineTuneConfig) -> dict[str, Any]:
    """Fine-tunes in a folder that is thrown away."""
    import keras

    with tempfile.TemporaryDirectory() as folder:
        card = fine_tune(config, Path(folder) / "run").metrics
    keras.backend.clear_session()  # else each run's graphs stay in memory
    return {
        "test": card["test"]["accuracy"],
        "validation": card["validation"]["accuracy"],
        "train_seconds": card["train_seconds"],
    }


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="64,256,1024,0", help="training rows; 0 means all")
    parser.add_argument("--recipes", default=RECIPES)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/remedies.jsonl"))
    options = parser.parse_args()
    recipes, sizes = options.recipes.split(","), [int(n) for n in options.rows.split(",")]
    cells: dict[tuple[str, int], str] = {}
    for rows in sizes:
        for name in recipes:
            results = []
            for seed in map(int, options.seeds.split(",")):
                config = recipe(name, rows, seed)
                settings = json.loads(json.dumps(dataclasses.asdict(config)))
                key = {"recipe": name, "rows": rows, "seed": seed, "config": settings}
                results.append(once(options.out, key, partial(run, config)))
            cells[name, rows] = spread([result["test"] for result in results], 3)
    titles = [f"{rows:,} rows" if rows else "all rows" for rows in sizes]
    print("| test accuracy |", " | ".join(titles), "|")
    print("|---" * (len(sizes) + 1) + "|")
    for name in recipes:
        print(f"| {name} |", " | ".join(cells[name, rows] for rows in sizes), "|")


if __name__ == "__main__":
    main()
