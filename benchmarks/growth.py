"""How time and memory grow with the rows: a frozen part run once, at 1, 4 and 16 times the data.

The last two blocks of MiniLM are tuned for three epochs on kept activations, of which 20 MB are
held in memory, so that all sizes but the first read them from the disk; and the head alone for
ten epochs on kept features. Rows are sentences of the movie reviews, repeated with another number
in front of each. Each run is a process of its own; its peak of resident memory and its times are
those of its card. Prints a table, and the exponent of the growth by least squares in logarithms:
1 means that four times the rows take four times as much.

    python benchmarks/growth.py
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.csv
from records import once

from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.packaged import packaged_path
from tf_finetune.recipe import load_recipe

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reviews.py"
TIMES, ROWS, LIMIT = (1, 4, 16), 1000, 0.02
WORK = {
    "last two blocks": (Phase(name="last", train="last:2", epochs=3),),
    "head": (Phase(name="head", train="head", epochs=10, learning_rate=3e-3),),
}


def config_of(work: str, path: Path) -> FineTuneConfig:
    """The reviews recipe on other rows, with nothing after its phases but scores."""
    config = load_recipe(CONFIG)
    config.data.path, config.data.where, config.phases = str(path), "", WORK[work]
    config.data.near_duplicates, config.fit.cache_memory = 0.0, LIMIT
    results = config.results
    results.export = results.probe_baseline = results.label_audit = results.drift = False
    return config


def write(path: Path, times: int) -> None:
    """Rows of two columns, no two of them alike."""
    table = pyarrow.csv.read_csv(packaged_path(load_recipe(CONFIG).data.path))
    table = table.filter(pc.field("source") == "rotten_tomatoes")
    table = table.take(np.linspace(0, len(table) - 1, ROWS).astype("int64"))
    texts, labels = table["text"].to_pylist(), table["label"].to_pylist()
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        for number in range(times):
            rows = zip(texts, labels, strict=True)
            writer.writerows([f"{number} {text}", label] for text, label in rows)


def run(work: str, times: int) -> dict[str, Any]:
    """One run, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "rows.csv"), times)
        file = Path(folder, "config.json")
        file.write_text(config_of(work, Path(folder, "rows.csv")).to_json(), encoding="utf-8")
        code = (
            "import sys; from tf_finetune import FineTuneConfig, fine_tune; "
            "fine_tune(FineTuneConfig.from_json(open(sys.argv[1]).read()), sys.argv[2])"
        )
        command = [sys.executable, "-c", code, str(file), f"{folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        card = json.loads(Path(folder, "run", "metrics.json").read_text(encoding="utf-8"))
    return {
        "train_seconds": card["train_seconds"],
        "seconds": card["seconds"]["total"],
        "gigabytes": card["peak_memory_bytes"] / 1e9,
    }


def exponent(figures: list[float]) -> float:
    """Of the growth with the rows."""
    return float(np.polyfit(np.log(TIMES), np.log(figures), 1)[0])


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/growth.jsonl"))
    options = parser.parse_args()
    titles = " | ".join(f"{times * ROWS:,} rows" for times in TIMES)
    print(f"| | {titles} | exponent |", "|---" * (len(TIMES) + 2) + "|", sep="\n")
    for work in WORK:
        found = [
            once(options.out, {"work": work, "times": t, "rows": ROWS}, partial(run, work, t))
            for t in TIMES
        ]
        for figure in ("train_seconds", "seconds", "gigabytes"):
            values = [one[figure] for one in found]
            cells = " | ".join(f"{value:.2f}" for value in values)
            print(f"| {work}, {figure} | {cells} | {exponent(values):.2f} |", flush=True)


if __name__ == "__main__":
    main()
