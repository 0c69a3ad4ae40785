"""What the benchmarks add to the runs they start: keeping, choosing, tabulating."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_a_recorded_run_is_not_run_again(benchmark, tmp_path: Path) -> None:
    once, file = benchmark("records").once, tmp_path / "out" / "runs.jsonl"
    runs: list[int] = []

    def run() -> dict[str, Any]:
        runs.append(1)
        return {"accuracy": len(runs)}

    key = {"seed": 0, "config": {"a": [1, 2]}}
    assert once(file, key, run) == once(file, key, run) == {"accuracy": 1}
    assert once(file, key | {"config": {"a": [1, 3]}}, run) == {"accuracy": 2}
    assert len(file.read_text().splitlines()) == 2


def test_a_failed_run_is_not_recorded(benchmark, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    with pytest.raises(ZeroDivisionError):
        benchmark("records").once(file, {"seed": 0}, lambda: {"accuracy": 1 / 0})
    assert not file.exists()


@pytest.mark.parametrize(
    ("values", "shown"), [([0.5], "0.50"), ([0.5, 0.7], "0.60 ± 0.14"), ([1, 1, 1], "1.00 ± 0.00")]
)
def test_spread(benchmark, values: list[float], shown: str) -> None:
    assert benchmark("records").spread(values, 2) == shown


def result(validation: float, test: float, seconds: float) -> dict[str, float]:
    return {
        "validation_accuracy": validation,
        "test_accuracy": test,
        "seconds": seconds,
        "train_seconds": seconds - 10,
    }


def test_the_rate_is_chosen_on_validation_not_on_test(
    benchmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module: ModuleType = benchmark("text_vs_trainer")
    peers = {2e-5: result(0.84, 0.80, 100), 5e-5: result(0.83, 0.90, 120)}
    monkeypatch.setattr(module, "recipe", lambda seed, limit: module.FineTuneConfig())
    monkeypatch.setattr(module, "write_split", lambda config, folder: "digest")
    monkeypatch.setattr(module, "run_peer", lambda options, rows, rate, seed: peers[rate])
    ours = {1e-4: result(0.85, 0.86, 50), 2e-4: result(0.84, 0.95, 40)}
    monkeypatch.setattr(
        module, "run_ours", lambda config, folder, digest: ours[config.fit.learning_rate]
    )
    options = argparse.Namespace(
        rates=list(peers),
        our_rates=list(ours),
        epochs=3,
        limit=0,
        pooling="",
        peer_bf16=False,
        out=tmp_path / "runs.jsonl",
    )
    pair = module.run_seed(options, 0)
    assert pair["peer"]["rate"] == 2e-5
    assert pair["peer"]["test_accuracy"] == 0.80
    shown = module.table({0: pair})
    assert "| 0 | 2e-05 | 0.0001 | 0.8000 | 0.8600 | 100 | 50 | 0.50 | 90 | 40 |" in shown
    # All runs stand in the file, so a second call starts none.
    monkeypatch.setattr(module, "run_ours", lambda *given: pytest.fail("ran again"))
    assert module.run_seed(options, 0) == pair


def test_the_peer_gets_the_rows_of_our_own_split(benchmark, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    words = (
        "amber",
        "brisk",
        "cedar",
        "delta",
        "ember",
        "fjord",
        "grove",
        "haven",
        "inlet",
        "jolly",
    )
    lines = [
        f"{a} {b} film,{'good' if i % 2 else 'bad'}" for i, a in enumerate(words) for b in words
    ]
    source.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    module = benchmark("text_vs_trainer")
    config = module.FineTuneConfig()
    config.data.path = str(source)
    folder = tmp_path / "rows"
    folder.mkdir()
    assert module.write_split(config, folder)
    written = {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "validation", "test")
    }
    assert all(written.values())
    names = ("bad", "good")
    rows = [f"{row['text']},{names[row['label']]}" for part in written.values() for row in part]
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(lines)


def test_each_remedy_is_a_configuration_that_can_run(benchmark) -> None:
    module = benchmark("remedies")
    configs = {name: module.recipe(name, 64, 3) for name in module.RECIPES}
    for config in configs.values():
        config.validate()
        assert (config.data.limit, config.data.seed, config.fit.seed) == (64, 3, 3)
    assert len({config.to_json() for config in configs.values()}) == len(configs)


def test_the_table_of_remedies_leaves_out_what_was_not_measured(benchmark) -> None:
    results = {
        ("full", 64): [{"test": 0.5}, {"test": 0.7}],
        ("full", 0): [{"test": 0.8, "recall": 0.25}, {"test": 0.8, "recall": 0.25}],
    }
    table = benchmark("remedies").table
    assert table(results, "test", "accuracy").splitlines() == [
        "| accuracy | 64 rows | all rows |",
        "|---|---|---|",
        "| full | 0.600 ± 0.141 | 0.800 ± 0.000 |",
    ]
    assert table(results, "recall", "found").splitlines()[2] == "| full | 0.250 ± 0.000 |"


@pytest.mark.real
def test_reviews_are_long_of_both_kinds_and_other_ones_to_choose_by(benchmark) -> None:
    module = benchmark("retained")
    texts, labels = module.reviews()
    others, _ = module.reviews(skip=1000)
    assert len(texts) == len(others) == len(labels) == 1000
    assert not set(texts) & set(others)
    assert 0.4 < labels.mean() < 0.6
    assert min(len(text.split()) for text in texts) >= 260


def speed_pair(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    ours = {
        "seconds": 50.0,
        "test_accuracy": 0.8,
        "validation": [0.7, 0.8],
        "validated_at": [20.0, 40.0],
        "examples_per_second": 100.0,
        "first_step_seconds": 5.0,
    }
    trainer = ours | {"seconds": 100.0, "validated_at": [60.0, 90.0], "examples_per_second": 50.0}
    keras = trainer | {"epochs": 2, "epoch_seconds": 40.0, "seconds": 120.0}
    return {"ours": ours, "trainer": trainer, "keras": keras} | changes


def test_a_table_of_speeds_says_by_how_much_each_is_behind(benchmark) -> None:
    module, pairs = benchmark("speed"), [speed_pair()]
    # Keras has made two epochs of ten; eight more take 40 s each.
    assert "| 2.00 (2.00 to 2.00) | 440.0 (0.800) | 8.80 " in module.line("head", pairs)
    assert "| 100.0 (0.800) | 50.0 (0.800) | 2.00 " in module.line("all, as is", pairs)
    assert "| 5.0 (0.800) | 5.0 (0.800) | 1.00 " in module.line("first step", pairs)


def test_time_to_an_accuracy_counts_to_the_epoch_that_has_it(benchmark) -> None:
    module = benchmark("speed")
    pair = speed_pair()
    assert module.figure("to an accuracy", pair, "ours") == 40.0
    assert module.figure("to an accuracy", pair, "trainer") == 90.0
    pair["trainer"]["validation"] = [0.7, 0.9]
    assert module.figure("to an accuracy", pair, "ours") == float("inf")


def test_lines_of_a_file_are_dated_as_they_come(benchmark, tmp_path: Path) -> None:
    import sys

    code = (
        "import time, sys; f = open(sys.argv[1], 'w', buffering=1); f.write('a\\n'); "
        "time.sleep(1); f.write('b\\n'); time.sleep(0.5)"
    )
    file = tmp_path / "lines"
    seconds, came = benchmark("speed").timed([sys.executable, "-c", code, str(file)], file)
    assert len(came) == 2
    assert 0 < came[0] < came[1] <= seconds


def test_of_the_plain_recipe_on_pictures_what_had_ended_in_our_time_counts(benchmark) -> None:
    epochs = [
        {"seconds": 10.0, "validation": 0.5, "test": 0.4},
        {"seconds": 20.0, "validation": 0.7, "test": 0.6},
        {"seconds": 60.0, "validation": 0.7, "test": 0.9},
        {"seconds": 90.0, "validation": 0.8, "test": 0.7},
    ]
    module = benchmark("images")
    assert module.best(epochs[:3])["test"] == 0.6
    cells = module.line("x", [({"test": 0.8, "seconds": 30.0}, {"epochs": epochs})]).split(" | ")
    assert cells == ["| x", "0.800", "30", "0.700", "90", "0.600", "3.00 |"]
    (early,) = [module.line("x", [({"test": 0.8, "seconds": 5.0}, {"epochs": epochs})])]
    assert " | 0.400 | 18.00 |" in early
