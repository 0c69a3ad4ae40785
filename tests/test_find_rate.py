"""The learning-rate finder on a run's configuration, in Python and from the command line."""

import numpy as np
import pytest

from tests import runs
from tests.mistakes import table
from tests.runs import config_for
from tf_finetune import main
from tf_finetune.config import Phase
from tf_finetune.find_rate import find_rate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_the_head_trains_first_and_the_last_phase_is_swept(preset, folder):
    said = []
    config = config_for(preset, class_weights="balanced", token_swap=0.1, probe_epochs=1)
    curve = find_rate(config, runs.classes(), say=said.append)
    assert any(line.startswith("phase probe: best of 1 epochs") for line in said)
    assert any(line.startswith("phase tune: learning rate: ") for line in said)
    assert not any(line.startswith("phase tune: trainable") for line in said)
    if curve.suggestion:
        assert said[-1] == f"take it with --config.fit.learning_rate={curve.suggestion:.1e}"
    left = [path.name for path in folder.rglob("*") if "autograph" not in path.name]
    assert left == []


def test_phases_between_are_left_out_and_a_list_has_no_setting(preset, folder):
    said = []
    phases = (Phase(train="last:1"), Phase(train="all"))
    config = config_for(preset, phases=phases)
    first = find_rate(config, runs.classes(), say=said.append)
    assert "phase last:1: left out" in said
    assert not any("--config.fit" in line for line in said)
    again = find_rate(config, runs.classes(), say=said.append)
    np.testing.assert_array_equal(first.raw, again.raw)


def test_from_the_command_line(preset, folder, capfd):
    (folder / "good.csv").write_bytes(table(60))
    given = ["--mode=find_rate", "--config.data.path=good.csv", f"--config.model.preset={preset}"]
    given += ["--config.data.near_duplicates=0.0", "--config.fit.probe_epochs=1"]
    assert main.run(["tf-finetune", *given, "--output=rates.svg"]) == 0
    out = capfd.readouterr().out
    assert "learning rate: " in out
    assert "     rate      loss\n" in out
    assert "plot: rates.svg" in out
    assert (folder / "rates.svg").read_text().startswith("<svg")
    assert main.run(["tf-finetune", *given, "--output=rates.png"]) == 2
    assert '--output is "rates.png"; the plot is an SVG' in capfd.readouterr().err


def test_the_sweep_makes_its_updates_as_the_run_would(preset, folder):
    said = []

    def raw(**changes):
        config = config_for(preset, probe_epochs=1, **changes)
        return find_rate(config, runs.classes(), say=said.append).raw

    plain = raw()
    # What is to be found fits as a whole here.
    np.testing.assert_array_equal(raw(micro_batch=-1), plain)
    assert any(line.startswith("memory: 16 rows at a time fit") for line in said)
    assert raw(mixup=1.0) != plain
