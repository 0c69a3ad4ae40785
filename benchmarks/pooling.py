"""Which pooling? First token, mean, max or the backbone's own, by validation accuracy.

Short runs of the reviews recipe (2,048 rows, one epoch of tuning), several seeds each,
in one process. Finished runs are kept in `--out`; the same command goes on from there.

    python benchmarks/pooling.py
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

from records import in_a_thrown_away_folder, once, spread

from tf_finetune.config import FineTuneConfig
from tf_finetune.config_checks import POOLINGS
from tf_finetune.recipe import load_recipe

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reviews.py"


def recipe(pooling: str, seed: int, limit: int) -> FineTuneConfig:
    """The reviews recipe, shortened."""
    config = load_recipe(CONFIG)
    config.model.pooling = pooling
    config.data.seed = config.fit.seed = seed
    config.data.limit = limit
    config.fit.epochs = 1
    config.results.export = False
    return config


def run(config: FineTuneConfig) -> dict[str, Any]:
    """The validation accuracy after fine-tuning."""
    return in_a_thrown_away_folder(
        config, lambda result: {"validation": result.metrics["validation"]["accuracy"]}
    )


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--limit", type=int, default=2048, help="training rows; 0 means all")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/pooling.jsonl"))
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    found: dict[str, list[float]] = {pooling: [] for pooling in POOLINGS}
    for seed in seeds:
        for pooling in POOLINGS:
            config = recipe(pooling, seed, options.limit)
            settings = json.loads(json.dumps(dataclasses.asdict(config)))
            key = {"pooling": pooling, "seed": seed, "config": settings}
            result = once(options.out, key, partial(run, config))
            found[pooling].append(result["validation"])
    print("| pooling | validation accuracy |", "|---|---|", sep="\n")
    for pooling, values in sorted(found.items(), key=lambda item: -sum(item[1])):
        print(f"| {pooling} | {spread(values)} |")


if __name__ == "__main__":
    main()
