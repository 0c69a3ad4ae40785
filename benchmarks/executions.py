"""What several updates in one call save: the last two blocks and the head, on what is kept of them.

Runs of the reviews recipe on 2,048 rows, a process each, one after another, at 1 to 16 updates a
call; shown are training examples a second in the last epoch, the median over `--times`.

    python benchmarks/executions.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reviews.py"
WORK = {
    "head, 20 epochs": ("phases=probe", "fit.probe_epochs=20"),
    "last two blocks, 3 epochs": ("phases=full", "fit.train=last:2", "fit.epochs=3"),
    "all blocks, 2 epochs": ("phases=full", "fit.epochs=2"),
}
SIZES = (1, 4, 16)
FIXED = ("data.limit=2048", "results.export=False", "results.probe_baseline=False")


def rate(settings: tuple[str, ...], size: int) -> float:
    """Training examples a second of the last epoch of a run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tf_finetune.main", f"--config={CONFIG}"]
        command += [f"--config.{s}" for s in (*FIXED, *settings)]
        command += [f"--config.fit.steps_per_execution={size}", f"--workdir={folder}/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        last = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    return float(json.loads(last)["examples_per_second"])


def main() -> None:
    """Reads the command line, measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    titles = " | ".join(f"{n} a call" for n in SIZES)
    print(f"| examples a second | {titles} |", "|---" * (len(SIZES) + 1) + "|", sep="\n")
    for name, settings in WORK.items():
        found: dict[int, list[float]] = {size: [] for size in SIZES}
        for _ in range(options.times):
            for size in SIZES:
                found[size].append(rate(settings, size))
        cells = [f"{statistics.median(rates):,.0f}" for rates in found.values()]
        print(" | ".join([f"| {name}", *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
