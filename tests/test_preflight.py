"""Whether an update fits is found before a run, and what fits is what trains."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests import runs
from tests.runs import config_for
from tf_finetune import preflight
from tf_finetune.assemble import set_up
from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.plan import plan
from tf_finetune.preflight import FIND, attempt, fitting
from tf_finetune.train import fine_tune

GB = 10**9


@pytest.fixture(scope="module")
def setup(preset, tmp_path_factory):
    config = config_for(preset)
    return set_up(config, tmp_path_factory.mktemp("data"), runs.classes(), say=lambda line: None)


@pytest.fixture
def tries(monkeypatch):
    """What was tried; none above `most` rows fits, and what is free can be set."""
    found = SimpleNamespace(rows=[], usable=[], most=10**9, free=8 * GB)

    def tried(folder, rows, usable):
        found.rows.append(rows)
        found.usable.append(usable)
        return 10**6 if rows <= found.most else None

    monkeypatch.setattr(preflight, "attempt", tried)
    monkeypatch.setattr(preflight, "free_bytes", lambda: found.free)
    return found


def chosen(preset, setup, **changes):
    said = []
    config = config_for(preset, **changes)
    return fitting(config, setup, say=said.append).fit, said


def test_nothing_is_tried_where_it_fits_comfortably_or_is_set(preset, setup, tries):
    assert chosen(preset, setup) == (config_for(preset).fit, [])
    tries.free = 1000
    assert chosen(preset, setup, micro_batch=4)[0].micro_batch == 4
    tries.free = None
    assert chosen(preset, setup)[0].micro_batch == 0
    assert tries.rows == []


@pytest.mark.parametrize(("asked", "free"), [(FIND, 8 * GB), (0, 1000), (FIND, None)])
def test_the_most_rows_that_fit_are_found(preset, setup, tries, asked, free):
    tries.free, tries.most = free, 3
    fit, said = chosen(preset, setup, micro_batch=asked, global_batch=20)
    # In 1, 2, ... parts: 20, 10, 7, 5, 4, 3, 2, 1.
    assert tries.rows == [20, 4, 2, 3]
    assert set(tries.usable) == {None if free is None else int(0.9 * free)}
    assert (fit.micro_batch, fit.global_batch) == (3, 20)
    assert "phase tune" in said[0]
    assert said[1:5] == [
        "memory: 20 rows at a time do not fit",
        "memory: 4 rows at a time do not fit",
        "memory: 2 rows at a time fit, in a process that takes 0.0 GB",
        "memory: 3 rows at a time fit, in a process that takes 0.0 GB",
    ]
    assert said[5] == "memory: 3 rows go through at a time"
    tries.most = 20
    assert chosen(preset, setup, micro_batch=asked)[0].micro_batch == 0  # whole


@pytest.mark.parametrize("batch", [1, 2, 16, 17, 31, 48, 256])
def test_in_few_trials_no_fewer_parts_would_fit(batch):
    """Also of a batch that only 1 divides."""
    for most in range(batch + 1):
        tried, said = [], []

        def peak(rows, most=most, tried=tried):
            tried.append(rows)
            return 10**6 if rows <= most else None

        rows = preflight._most(batch, peak, said.append)
        assert rows <= most
        assert bool(rows) == bool(most)
        assert not most or -(-batch // rows) == -(-batch // most)
        assert len(tried) == len(set(tried)) == len(said) <= 6


def test_too_little_for_a_single_row_is_refused_with_the_mends(preset, tries, tmp_path):
    tries.most = 0
    config = config_for(preset, micro_batch=FIND)
    with pytest.raises(UserError) as error:
        fine_tune(config, tmp_path / "run", runs.classes(), say=lambda line: None)
    message = str(error.value)
    assert message.startswith("config.fit.global_batch is 16, of which not even one row")
    for mend in ("gradient_checkpointing=True", "sequence_length below 16", "lora", "preset"):
        assert mend in message
    assert not (tmp_path / "run" / "config.json").exists()
    config.fit.gradient_checkpointing, config.phases = True, "lora"
    with pytest.raises(UserError) as error:
        plan(config, runs.classes())
    assert "gradient_checkpointing=True" not in str(error.value)
    assert "lora" not in str(error.value)


def test_a_run_trains_by_what_was_found(preset, tries, tmp_path):
    tries.most = 5
    found = fine_tune(
        config_for(preset, micro_batch=FIND), tmp_path / "found", runs.classes(), say=print
    )
    given = fine_tune(
        config_for(preset, micro_batch=4), tmp_path / "given", runs.classes(), say=print
    )
    assert found.metrics["micro_batch"] == given.metrics["micro_batch"] == 4
    for a, b in zip(found.model.weights, given.model.weights, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    lines = plan(config_for(preset, micro_batch=FIND), runs.classes())
    assert "memory: 4 rows at a time fit" in lines


def test_updates_in_a_process_of_their_own(preset, setup, tmp_path, monkeypatch):
    """Real ones: with room, ended from outside, without address space, and broken."""
    phase = Phase(train="all")
    config = config_for(preset, gradient_checkpointing=True)
    preflight._write(tmp_path, config, setup, phase)
    lengths = setup.store.lengths[setup.prepared.splits["train"]]
    assert np.load(tmp_path / "x.npz")["token_ids"].shape[1] >= lengths.max()
    assert 10**8 < attempt(tmp_path, 4, None) < 4 * GB
    assert attempt(tmp_path, 4, 10**8) is None
    plain = preflight.command
    limited = ["bash", "-c", 'ulimit -v 1500000; exec "$@"', "bash"]
    monkeypatch.setattr(preflight, "command", lambda *given: limited + plain(*given))
    assert attempt(tmp_path, 4, None) is None
    broken = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    monkeypatch.setattr(preflight, "command", lambda *given: broken)
    with pytest.raises(RuntimeError, match="ended with 1: no such thing"):
        attempt(tmp_path, 4, None)


def test_the_phase_that_takes_most_is_tried(preset, setup):
    phases = [Phase(train="last:1"), Phase(name="most", train="all"), Phase(train="head")]
    several = dataclasses.replace(setup, phases=phases)
    small, _ = preflight._largest(config_for(preset), several)
    assert small.name == "most"
