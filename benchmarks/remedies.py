"""Which recipe, for how many rows, and what does it forget? On the movie reviews.

Runs of the reviews recipe in one process: 64, 256, 1,024 and all training rows, five
seeds each, which choose split, rows and order. Every run keeps its best epoch by
validation, of 256 rows where few are trained on; the test rows are read once a run and
choose nothing. From 1,024 rows on each run also measures what the model still can do
(`retained.py`). Finished runs are kept in `--out`; the same command goes on from there.

    python benchmarks/remedies.py
    python benchmarks/remedies.py --rows=64 --recipes=full,probe_then_tune --seeds=0,1
    python benchmarks/remedies.py --choose --rows=1024 --recipes=full,probe_then_tune,l2_sp

`--choose` is for choosing settings: it shows the validation rows and other reviews, and
never the test rows.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from records import in_a_thrown_away_folder, once, spread
from retained import abilities

from tf_finetune.config import FineTuneConfig
from tf_finetune.overrides import override
from tf_finetune.recipe import load_recipe

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reviews.py"
_LAST_2 = ("phases=full", "fit.train=last:2", "fit.interpolate=1", "fit.precision=float32")
# By name: what each sets. The default comes first, then the other recipes, of which those
# that tune end where training ends, then single remedies on top of the default, then what
# precision costs: of computing (the default is bfloat16 where the processor has it), and of
# kept activations.
RECIPES: dict[str, tuple[str, ...]] = {
    "probe_then_tune": (),
    "no_interpolation": ("fit.interpolate=1",),
    "full": ("phases=full", "fit.interpolate=1"),
    "probe": ("phases=probe",),
    "probe_lbfgs": ("phases=probe", "fit.probe_solver=lbfgs"),
    "gradual": ("phases=gradual", "fit.interpolate=1"),
    "lora": ("phases=lora",),
    "interpolate": ("fit.interpolate=0",),
    "layer_decay": ("fit.layer_decay=0.8",),
    "l2_sp": ("fit.l2_sp=30",),
    "ema": ("fit.ema=0.99",),
    "mixup": ("fit.mixup=0.4",),
    "r_drop": ("fit.r_drop=1",),
    "token_deletion": ("data.token_deletion=0.1",),
    "token_mask": ("data.token_mask=0.1",),
    "probe_seeds": ("fit.probe_seeds=5",),
    "float32": ("fit.precision=float32",),
    "last_2": _LAST_2,
    "last_2_kept_float16": (*_LAST_2, "fit.cache_precision=float16"),
    "last_2_kept_bfloat16": (*_LAST_2, "fit.cache_precision=bfloat16"),
}
_FEW = 1024


def recipe(name: str, rows: int, seed: int) -> FineTuneConfig:
    """The reviews recipe with these settings, training rows and seed."""
    config = load_recipe(CONFIG)
    config.data.limit = rows
    config.data.seed = config.fit.seed = seed
    results = config.results
    results.export = results.probe_baseline = results.label_audit = results.drift = False
    if 0 < rows <= _FEW:
        config.data.validation = "0.03"
    return override(config, [f"--config.{setting}" for setting in RECIPES[name]])[0]


def run(config: FineTuneConfig, choose: bool) -> dict[str, Any]:
    """Fine-tunes, and measures: to choose by, or to report."""

    def measured(result: Any) -> dict[str, Any]:
        card, few = result.metrics, 0 < config.data.limit < _FEW
        return {
            **({} if choose else {"test": card["test"]["accuracy"]}),
            "validation": card["validation"]["accuracy"],
            "train_seconds": card["train_seconds"],
            **({} if few else abilities(result.model, skip=1000 if choose else 0)),
        }

    return in_a_thrown_away_folder(config, measured)


def table(results: dict[tuple[str, int], list[dict[str, Any]]], figure: str, title: str) -> str:
    """Recipes by rows, mean ± standard deviation over the seeds."""
    sizes = [n for n in dict.fromkeys(n for _, n in results) if figure in _any(results, n)]
    titles = [f"{n:,} rows" if n else "all rows" for n in sizes]
    lines = [" | ".join([f"| {title}", *titles]) + " |", "|---" * (len(sizes) + 1) + "|"]
    for name in dict.fromkeys(name for name, _ in results):
        cells = [spread([found[figure] for found in results[name, n]], 3) for n in sizes]
        lines.append(" | ".join([f"| {name}", *cells]) + " |")
    return "\n".join(lines)


def _any(results: dict[tuple[str, int], list[dict[str, Any]]], rows: int) -> dict[str, Any]:
    return next(found for (_, n), (found, *_) in results.items() if n == rows)


def main() -> None:
    """Reads the command line, runs what is not recorded yet and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="64,256,1024,0", help="training rows; 0 means all")
    parser.add_argument(
        "--recipes", default="probe_then_tune,no_interpolation,full,probe,gradual,lora"
    )
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--choose", action="store_true", help="show validation, not test")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/remedies.jsonl"))
    options = parser.parse_args()
    results: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for rows in map(int, options.rows.split(",")):
        for seed in map(int, options.seeds.split(",")):
            for name in options.recipes.split(","):
                key: dict[str, Any] = {"rows": rows, "seed": seed, "recipe": name}
                key |= {"sets": list(RECIPES[name]), "choose": options.choose}
                config = recipe(name, rows, seed)
                found = once(options.out, key, partial(run, config, options.choose))
                results.setdefault((name, rows), []).append(found)
    for figure, title in (
        ("validation" if options.choose else "test", "accuracy"),
        ("recall", "halves found"),
        ("shift", "accuracy on IMDb"),
    ):
        if any(figure in found[0] for found in results.values()):
            print(table(results, figure, title), end="\n\n")


if __name__ == "__main__":
    main()
