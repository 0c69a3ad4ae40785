"""What computing and reading take is measured on one batch, and leaves nothing behind."""

import time

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_backbone, tiny_preprocessor
from tf_finetune.fit import cut_costs
from tf_finetune.fit.activations import ActivationStore
from tf_finetune.fit.cut_costs import Costs, costs_in_memory, costs_in_run, remembered
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import frozen_dropout_off, set_trainable
from tf_finetune.model.slicing import cut_of, steps_of
from tf_finetune.model.task import TextTask

COUNT = 50


class Rows:
    """Texts of 1 to 8 tokens."""

    def __init__(self):
        self.lengths = 1 + np.arange(COUNT) % 8
        self.asked = []

    def batch(self, rows):
        self.asked.append(rows)
        lengths, longest = self.lengths[rows], self.lengths[rows].max()
        mask = np.arange(longest) < lengths[:, np.newaxis]
        ids = np.where(mask, 5, 0).astype("int32")
        return {
            "token_ids": ids,
            "padding_mask": mask.astype("int32"),
            "segment_ids": np.zeros_like(ids),
        }


@pytest.fixture(scope="module")
def cut():
    task = TextTask(tiny_backbone(0.1, num_layers=3), tiny_preprocessor(), "classification", "ab")
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, "last:1", "freeze")
    with frozen_dropout_off(groups):
        return cut_of(steps_of(groups.model))


def costs(cut, folder, store=None, memory=10**9, rows=COUNT, batch=64):
    return costs_in_run(cut, store or Rows(), np.arange(rows), folder, "", memory, batch)


@pytest.mark.parametrize("memory", [0, 10**9], ids=["disk", "memory"])
def test_a_batch_is_computed_written_and_read(cut, tmp_path, memory):
    store = Rows()
    found = costs(cut, tmp_path / "cache", store, memory)
    assert 0 < found.computing < 1
    assert 0 < found.reading < 1
    assert not list((tmp_path / "cache").iterdir())
    # Those in the middle by length stand for all.
    assert store.lengths[store.asked[0]].mean() == pytest.approx(store.lengths.mean(), rel=0.1)
    assert len(store.asked[0]) == 32
    costs(cut, tmp_path / "cache", store := Rows(), memory, batch=4)
    assert {len(rows) for rows in store.asked} == {4}


def test_fewer_rows_than_a_batch_do_too(cut, tmp_path):
    assert costs(cut, tmp_path, rows=3).computing > 0


def test_a_slow_disk_is_seen(cut, tmp_path, monkeypatch):
    read = ActivationStore.batch

    def slowly(self, rows):
        time.sleep(0.2)
        return read(self, rows)

    monkeypatch.setattr(ActivationStore, "batch", slowly)
    assert costs(cut, tmp_path).reading >= 0.2 / 32


def test_what_cannot_be_written_leaves_it_to_the_rule(cut, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert costs(cut, tmp_path / "cache") is None


def test_the_chief_decides_what_was_measured(cut, tmp_path, monkeypatch):
    monkeypatch.setattr(cut_costs, "told_by_chief", lambda number: 2_000_000)
    found = costs(cut, tmp_path)
    assert (found.computing, found.reading) == (2e-3, 2e-3)


def test_arrays_in_memory_are_measured_too(cut):
    found = costs_in_memory(cut, Rows().batch(np.arange(COUNT)), 8)
    assert found.computing > found.reading > 0


def test_how_often_a_prefix_is_run_depends_on_no_clock(cut, tmp_path, monkeypatch):
    """Hosts wait for each other in it, and each has a clock of its own."""
    runs = []
    step = cut_costs.run_prefixes

    def counted(cuts, x):
        tf.py_function(lambda: runs.append(1), [], [])
        return step(cuts, x)

    monkeypatch.setattr(cut_costs, "run_prefixes", counted)
    for seconds in (0.0, 10.0):
        times = iter(np.arange(100) * seconds)
        monkeypatch.setattr(cut_costs.time, "perf_counter", lambda times=times: next(times))
        costs(cut, tmp_path)
        assert len(runs) == 2
        runs.clear()


def test_no_memory_leaves_it_to_the_rule(cut, tmp_path, monkeypatch):
    def none(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    monkeypatch.setattr(cut_costs, "run_prefixes", none)
    assert costs(cut, tmp_path) is None


def test_what_was_measured_is_remembered(tmp_path):
    file, calls = tmp_path / "costs.json", []

    def measure(found):
        calls.append(found)
        return found

    for key, found in (("a", Costs(1.0, 2.0)), ("b", None)):
        for _ in range(2):
            assert remembered(file, key, lambda found=found: measure(found)) == found
    # What could not be measured is tried again.
    assert calls == [Costs(1.0, 2.0), None, None]
    for damaged in ("{", "null", "[1]"):
        file.write_text(damaged)
        assert remembered(file, "a", lambda: measure(Costs(3.0, 4.0))) == Costs(3.0, 4.0)
