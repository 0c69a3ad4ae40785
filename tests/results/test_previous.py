"""A run beside an earlier one that was tested on the same rows."""

import types

import numpy as np
import pyarrow as pa
import pytest

from tests import runs
from tests.results.test_compare import LABELS, TEXTS, N, make_run, outputs_with
from tf_finetune import train
from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import UserError
from tf_finetune.results.previous import previous_outputs
from tf_finetune.train import fine_tune


def setup_of(order, labels=LABELS, names=("bad", "good")):
    """A run on these rows, in another order and behind rows to train on."""
    table = pa.table({"text": ["a text to train on", *(TEXTS[i] for i in order)]})
    prepared = types.SimpleNamespace(
        table=table,
        labels=np.concatenate([[0], labels[order]]),
        splits={"test": np.arange(1, N + 1)},
    )
    task = types.SimpleNamespace(kind="classification", class_names=names)
    return types.SimpleNamespace(prepared=prepared, task=task)


def config_beside(folder):
    config = FineTuneConfig()
    config.results.previous = str(folder)
    return config


def test_outputs_come_in_the_order_of_this_runs_rows(tmp_path):
    outputs = outputs_with(range(60))
    folder = make_run(tmp_path / "a", outputs)
    order = np.random.default_rng(1).permutation(N)
    found = previous_outputs(config_beside(folder), setup_of(order))
    np.testing.assert_array_equal(found, outputs[order])
    assert previous_outputs(FineTuneConfig(), setup_of(order)) is None


def test_a_run_on_other_rows_or_classes_is_refused(tmp_path):
    folder = make_run(tmp_path / "a", outputs_with([]))
    order = np.arange(N)
    with pytest.raises(UserError, match=r'a" and "this run" are of different classes'):
        previous_outputs(config_beside(folder), setup_of(order, names=("no", "yes")))
    setup = setup_of(order)
    setup.prepared.splits["test"] = np.arange(1, N)
    with pytest.raises(UserError, match="tested on different rows"):
        previous_outputs(config_beside(folder), setup)
    with pytest.raises(UserError, match="b"):
        previous_outputs(config_beside(tmp_path / "b"), setup)


def test_a_run_tells_what_it_is_ahead_by(finished, preset, tmp_path, monkeypatch):
    before = finished.result.workdir
    config = runs.config_for(preset, phases="probe")
    config.results.previous = str(before)
    result = fine_tune(config, tmp_path / "run", runs.classes(), say=lambda line: None)
    card = result.metrics
    assert card["baselines"]["previous"]["accuracy"] == finished.result.metrics["test"]["accuracy"]
    gain = card["test"]["accuracy"] - finished.result.metrics["test"]["accuracy"]
    assert card["gain_over_previous"]["value"] == pytest.approx(gain)
    assert set(card["gain_over_previous"]["mcnemar"]) == {"only_first", "only_second", "p"}
    for file in ("report.md", "report.html", "README.md"):
        assert (
            "Beside the run before, this one changed it by" in (tmp_path / "run" / file).read_text()
        )
    # What cannot be compared is found before anything is trained.
    monkeypatch.setattr(train, "_train", None)
    config.data.seed = 5
    with pytest.raises(UserError, match="tested on different rows"):
        fine_tune(config, tmp_path / "other", runs.classes(), say=lambda line: None)
