"""How many labels that were turned over the audit has among its first suspects.

    python benchmarks/label_audit.py [--rows=0] [--seeds=0,1,2]

The reviews recipe on training rows of which 5% have the other label, drawn by the seed; the
share of these among the first tenth of `label_audit.csv`. Finished runs are kept in `--out`.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from instability import CONFIG, WRONG, write_rows
from records import once, spread

from tf_finetune import fine_tune
from tf_finetune.config import FineTuneConfig
from tf_finetune.recipe import load_recipe

_FIRST = 0.1


def run(seed: int, rows: int) -> dict[str, Any]:
    """One run: the share of turned labels among the first suspects, and how many there are."""
    config: FineTuneConfig = load_recipe(CONFIG)
    config.data.limit, config.data.seed, config.fit.seed = rows, seed, seed
    config.results.export = config.results.drift = False
    with tempfile.TemporaryDirectory() as name:
        turned = write_rows(config, Path(name))
        # All rows stand in the files now; the label of each was right before it was turned.
        config.data.limit = 0
        result = fine_tune(config, Path(name) / "run", say=lambda line: None)
        with (result.workdir / "label_audit.csv").open(newline="") as file:
            order = [int(row["row"]) for row in csv.DictReader(file)]
    first = order[: round(_FIRST * len(order))]
    found = len(turned & set(first)) / len(turned)
    return {"found": found, "turned": len(turned), "rows": len(order)}


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints what it came to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=0, help="training rows; 0 means all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/label_audit.jsonl"))
    options = parser.parse_args()
    found = []
    for seed in map(int, options.seeds.split(",")):
        key = {"seed": seed, "rows": options.rows}
        one = once(options.out, key, partial(run, seed, options.rows))
        print(f"seed {seed}: {one['found']:.1%} of {one['turned']} in {one['rows']:,} rows")
        found.append(one["found"])
    print(f"{WRONG:.0%} turned over; in the first {_FIRST:.0%}: {spread(found, 3)}")


if __name__ == "__main__":
    main()
