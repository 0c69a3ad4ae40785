"""Runs with retained rows: what they report, and what the floor lets through."""

import csv
import json

import keras
import numpy as np
import pytest

from tests import runs
from tests.runs import config_for
from tests.tiny import tiny_texts
from tf_finetune import LayerwiseAdamW, resume
from tf_finetune import train as train_module
from tf_finetune.assemble import set_up
from tf_finetune.fit.loop import compile_phase
from tf_finetune.fit.objective import objective_of
from tf_finetune.interpolated import interpolate_run
from tf_finetune.rerun import evaluate_run
from tf_finetune.results import evaluate
from tf_finetune.results.retention import FLOOR_MISSED
from tf_finetune.train import fine_tune

ROWS = 60


@pytest.fixture(scope="module")
def retained(tmp_path_factory):
    """Other texts, in which "bad" is what "good" is to the run, and two that it trains on."""
    texts, labels = tiny_texts(ROWS, seed=9)
    seen = runs.classes()
    rows = [(text, runs.CLASSES[1 - label]) for text, label in zip(texts, labels, strict=True)]
    rows += list(zip(seen["text"][:2], seen["label"][:2], strict=True))
    file = tmp_path_factory.mktemp("retained") / "retained.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("text", "label"), *rows])
    return str(file)


def train(config, workdir, data=None, say=lambda line: None):
    keras.utils.set_random_seed(0)
    return fine_tune(config, workdir, data or runs.classes(), say=say)


def settings(preset, retained, **changes):
    given = {"retained": retained, "epochs": 4, "learning_rate": 3e-2, "leaks": "drop"}
    return config_for(preset, **(given | changes))


def accuracy(model, file):
    """Of the shipped model by itself."""
    with open(file) as opened:
        read = list(csv.DictReader(opened))
    outputs = model.predict([row["text"] for row in read])
    chosen = [model.class_names[i] for i in outputs.argmax(1)]
    return np.mean([a == row["label"] for a, row in zip(chosen, read, strict=True)])


@pytest.fixture(scope="module")
def swept(preset, retained, tmp_path_factory):
    said = []
    folder = tmp_path_factory.mktemp("swept") / "run"
    config = settings(preset, retained, interpolate=0.0)
    return train(config, folder, say=said.append), said


def test_before_and_after_stand_in_card_report_and_last_lines(swept, retained):
    result, said = swept
    kept = result.metrics["retained"]
    rows = kept["after"]["rows"]
    assert rows == ROWS + 2
    # It is the training rows that give way, as they do to a test row.
    assert "### Leak: 2\n\nLeft out" in (result.workdir / "data_report.md").read_text()
    assert set(kept) == {"before", "after", "change"}
    change = kept["after"]["accuracy"] - kept["before"]["accuracy"]
    assert kept["change"]["value"] == pytest.approx(change)
    report = (result.workdir / "report.md").read_text()
    assert f"On {rows} rows that were never trained on: accuracy" in report
    last = next(line for line in said[-1].splitlines() if line.startswith("retained: "))
    assert f"accuracy {kept['after']['accuracy']:.1%}" in last
    assert f"before tuning {kept['before']['accuracy']:.1%}" in last


def test_each_point_of_the_sweep_is_scored_on_the_retained_rows(swept):
    result, said = swept
    sweep, kept = result.metrics["interpolation"]["sweep"], result.metrics["retained"]
    assert [row["share"] for row in sweep] == [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    # The head alone on the untouched backbone is where the sweep ends.
    assert sweep[-1]["retained"] == pytest.approx(kept["before"]["accuracy"])
    chosen = next(r for r in sweep if r["share"] == result.metrics["interpolation"]["share"])
    assert chosen["retained"] == pytest.approx(kept["after"]["accuracy"])
    assert len({row["retained"] for row in sweep}) > 1
    line = next(line for line in said if line.startswith("interpolation: "))
    points = [f"{r['share']:.0%}: {r['score']:.4f} and {r['retained']:.4f} retained" for r in sweep]
    assert all(point in line for point in points)
    assert ", ".join(points) in (result.workdir / "report.md").read_text()


def test_the_floor_decides_between_the_points(swept, preset, retained, tmp_path):
    free = swept[0].metrics["interpolation"]
    by_share = {row["share"]: row for row in free["sweep"]}
    floor = max(row["retained"] for row in free["sweep"])
    assert floor > by_share[free["share"]]["retained"]
    config = settings(preset, retained, interpolate=0.0, retained_floor=round(floor, 6))
    result = train(config, tmp_path / "run")
    line = result.metrics["interpolation"]
    assert line["sweep"] == free["sweep"]
    allowed = [row for row in line["sweep"] if row["retained"] == floor]
    assert line["share"] == max(allowed, key=lambda row: (row["score"], -row["share"]))["share"]
    assert result.metrics["retained"]["after"]["accuracy"] == pytest.approx(floor)
    assert f"{floor:g} or better on the retained rows" in (tmp_path / "run/report.md").read_text()


def test_where_no_point_reaches_the_floor_what_retains_most_is_taken_and_said(
    preset, retained, tmp_path
):
    config = settings(preset, retained, interpolate=0.0, retained_floor=1.0, epochs=1)
    said: list[str] = []
    result = fine_tune(config, tmp_path / "run", runs.classes(), say=said.append)
    line = result.metrics["interpolation"]
    most = max(row["retained"] for row in line["sweep"])
    assert most < 1
    assert result.metrics["retained"]["after"]["accuracy"] == pytest.approx(most)
    assert FLOOR_MISSED in said
    report = (tmp_path / "run/report.md").read_text()
    assert FLOOR_MISSED in report
    assert "which retain most, though less than the floor of 1" in report


def test_retained_rows_change_nothing_but_the_report(preset, tmp_path):
    retained = tmp_path / "new.csv"
    retained.write_text("text,label\n" + "".join(f"{'the ' * n}plot,neg\n" for n in range(5, 25)))

    def run(name, **changes):
        return train(config_for(preset, epochs=2, **changes), tmp_path / name)

    with_, without = run("with", retained=retained), run("without")
    for a, b in zip(with_.model.weights, without.model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    assert with_.metrics["test"] == without.metrics["test"]
    assert "retained" not in without.metrics
    report = (tmp_path / "without" / "report.md").read_text().replace(str(tmp_path), "")
    assert "retained" not in report


def test_without_a_probe_before_is_the_model_as_tuning_begins(preset, retained, tmp_path):
    config = settings(preset, retained, phases="full", probe_baseline=False)
    kept = train(config, tmp_path / "run").metrics["retained"]
    start = set_up(config, tmp_path / "cache", runs.classes(), say=lambda line: None)
    rows = start.prepared.splits["retained"]
    outputs = np.asarray(start.task.scorer.predict(start.store.batch(rows), verbose=0))
    expected = evaluate.score(
        "classification", outputs, start.prepared.labels[rows], runs.CLASSES, bootstrap=100
    )
    assert kept["before"]["log_loss"] == pytest.approx(expected["log_loss"], abs=1e-5)
    assert kept["before"]["log_loss"] != pytest.approx(kept["after"]["log_loss"], abs=1e-3)


def test_a_sweep_needs_no_training_rows(preset, tmp_path):
    config = config_for(preset, interpolate=0.0)
    setup = set_up(config, tmp_path / "cache", runs.classes(), say=lambda line: None)
    network = setup.task.network
    compile_phase(network, LayerwiseAdamW(1e-3), objective_of(setup.task, 0.0))
    setup.prepared.splits = {"validation": setup.prepared.splits["validation"]}
    found = interpolate_run(setup, config, network.get_weights(), lambda line: None)
    assert len({row["score"] for row in found.sweep}) == 1  # both ends are the same


def test_a_head_alone_has_nothing_to_lose(preset, retained, tmp_path):
    result = train(settings(preset, retained, phases="probe"), tmp_path / "run")
    kept = result.metrics["retained"]
    assert set(kept) == {"after"}
    assert kept["after"]["accuracy"] == pytest.approx(accuracy(result.model, retained))


def test_for_regression_the_floor_is_the_largest_error(preset, tmp_path):
    texts, _ = tiny_texts(40, seed=5)
    file = tmp_path / "numbers.csv"
    with file.open("w", newline="") as out:
        rows = [(text, 1000.0 + 10 * len(text.split())) for text in texts]
        csv.writer(out).writerows([("text", "label"), *rows])
    given = {"task": "regression", "interpolate": 0.0, "retained": str(file), "epochs": 2}
    config = config_for(preset, retained_floor=1000.0, **given)
    card = train(config, tmp_path / "run", runs.numbers()).metrics
    shares = {row["share"]: -row["retained"] for row in card["interpolation"]["sweep"]}
    chosen = shares[card["interpolation"]["share"]]
    assert chosen == pytest.approx(card["retained"]["after"]["mae"], rel=1e-3)
    config = config_for(preset, retained_floor=1e-3, **given)
    line = train(config, tmp_path / "other", runs.numbers()).metrics["interpolation"]
    assert not line["floor_reached"]
    assert shares[line["share"]] == min(shares.values())


def test_evaluation_on_retained_rows_says_that_the_run_knew_them(swept, preset, retained, tmp_path):
    said = evaluate_run(swept[0].workdir, retained)
    assert json.loads(said[said.index("\n{") :])["judged"] > 2
    # With a floor the weights were chosen by them.
    config = settings(preset, retained, interpolate=0.0, retained_floor=0.1)
    train(config, tmp_path / "run")
    said = evaluate_run(tmp_path / "run", retained)
    assert json.loads(said[said.index("\n{") :])["seen"] > 2


def test_a_process_that_writes_nothing_goes_back_to_the_same_weights(preset, tmp_path, monkeypatch):
    """As workers beside the chief do."""
    went_back = []

    def record(setup, config, before, say):
        went_back.append(before)

    monkeypatch.setattr(train_module, "interpolate_run", record)
    config = config_for(preset, interpolate=0.5)
    train(config, tmp_path / "chief", runs.classes())
    monkeypatch.setattr(resume, "is_chief", lambda: False)
    train(config, tmp_path / "other", runs.classes())
    for a, b in zip(*went_back, strict=True):
        np.testing.assert_array_equal(a, b)
