import dataclasses
import json

import keras
import numpy as np
import pytest

from tests.runs import classes, config_for
from tests.tiny import tiny_task
from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.fit.examples import examples_of_rows
from tf_finetune.fit.feature_cache import FeatureStore
from tf_finetune.fit.loop import adamw_of, fit_phase
from tf_finetune.fit.objective import objective_of
from tf_finetune.fit.seeds import best_of_seeds, seeds_of
from tf_finetune.fit_settings import FitConfig
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import set_trainable
from tf_finetune.plan import plan
from tf_finetune.train import fine_tune

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(90, 16)).astype("float32")
LABELS = (FEATURES[:, 0] + RANDOM.normal(size=90) > 0).astype("int32")
PHASE = Phase(name="probe", train="head", epochs=3, learning_rate=3e-3)


class Probe:
    """The head of a tiny task on features, with all that a phase of it needs."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.task = tiny_task(dropout=0.3)
        self.head = self.task.head
        self.groups = layer_groups(self.task.network, self.task.backbone)
        self.objective = objective_of(self.task, 0.0)
        self.state, self.said, self.diverging = {}, [], ()
        set_trainable(self.groups, "head")

    def run(self, seed, folder, state, say):
        rate = 1e38 if seed in self.diverging else PHASE.learning_rate
        phase = dataclasses.replace(PHASE, learning_rate=rate)
        fit = FitConfig(global_batch=8, seed=seed)
        rows = np.arange(90)
        examples = examples_of_rows(FeatureStore(FEATURES), LABELS, rows[:40], rows[40:], fit)
        return fit_phase(
            self.head,
            examples,
            phase,
            objective=self.objective,
            optimizer=adamw_of(phase, examples.steps, self.groups, weight_decay=0.0, clip=1.0),
            state=state,
            number=1,
            workdir=folder,
            full=self.task.network,
            say=say,
        )

    def best(self, seeds):
        return best_of_seeds(
            self.run,
            self.head,
            seeds,
            objective=self.objective,
            state=self.state,
            workdir=self.folder,
            say=self.said.append,
        )


def of_time(result):
    """A result without what differs from one time to the next."""
    rows = [
        {k: v for k, v in row.items() if k not in ("seconds", "examples_per_second")}
        for row in result.history
    ]
    return rows, result.start, result.best_epoch, result.audit


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    probe = Probe(tmp_path_factory.mktemp("probe") / "run")
    return probe, probe.best(seeds_of(0, 4))


def test_the_best_on_validation_goes_on(chosen):
    _, result = chosen
    figures = result.seeds.figures
    assert result.seeds.monitor == "val_accuracy"
    assert len(set(figures)) > 1
    assert figures[result.seeds.chosen - 1] == max(figures) == result.figures["val_accuracy"]
    assert result.seeds.chosen > 1  # else the tests below would show nothing
    assert result.seeds.spread == pytest.approx(np.std(figures, ddof=1))


def test_what_goes_on_is_all_of_a_run_from_that_seed_alone(chosen, tmp_path):
    probe, result = chosen
    seed = seeds_of(0, 4)[result.seeds.chosen - 1]
    alone = Probe(tmp_path / "run")
    keras.utils.set_random_seed(seed)
    fresh = keras.models.clone_model(alone.head)
    for variable, value in zip(alone.head.variables, fresh.variables, strict=True):
        variable.assign(value)
    expected = alone.run(seed, alone.folder, alone.state, lambda line: None)
    assert of_time(expected) == of_time(result)
    for a, b in zip(alone.head.variables, probe.head.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    assert alone.state.keys() == probe.state.keys()
    for name, (age, *moments) in alone.state.items():
        assert age == probe.state[name][0] == 15
        np.testing.assert_array_equal(moments, probe.state[name][1:])


def test_the_first_seed_is_the_run_without_others(chosen, tmp_path):
    _, result = chosen
    alone = Probe(tmp_path / "run")
    expected = alone.run(0, alone.folder, alone.state, lambda line: None)
    assert expected.figures["val_accuracy"] == result.seeds.figures[0]
    assert seeds_of(0, 1) == [0]
    assert len({*seeds_of(0, 9), *seeds_of(1, 9)}) == 18


def test_the_files_are_those_of_the_best_run(chosen):
    probe, result = chosen
    lines = (probe.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    folder = probe.folder / "checkpoints" / "1-probe"
    assert {f.name for f in folder.iterdir()} == {"best.weights.h5"}
    again = keras.models.clone_model(probe.head)
    again.load_weights(folder / "best.weights.h5")
    for a, b in zip(again.get_weights(), probe.head.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(list((probe.folder / "logs" / "1-probe" / "train").iterdir())) == 1


def test_each_seed_and_the_spread_are_said(chosen):
    probe, result = chosen
    for number, figure in enumerate(result.seeds.figures, 1):
        start = f"phase probe, seed {number} of 4: val_accuracy {figure:.4f}, val_loss "
        assert probe.said[number - 1].startswith(start)
    low, high = min(result.seeds.figures), max(result.seeds.figures)
    assert probe.said[4] == (
        f"phase probe: seed {result.seeds.chosen} goes on; over 4 seeds val_accuracy is "
        f"{low:.4f} to {high:.4f}, standard deviation {result.seeds.spread:.4f}"
    )
    assert f"best of 3 epochs is {result.best_epoch}" in probe.said[-1]


@pytest.mark.parametrize("count", [1, 2])
def test_a_seed_that_diverges_counts_as_the_worst(chosen, tmp_path, count):
    """And leaves nothing to the others, which are as without it."""
    seeds, all_of_them = seeds_of(0, 4), chosen[1].seeds.figures
    worst = [0, chosen[1].seeds.chosen - 1][:count]  # the run's own, and the best
    probe = Probe(tmp_path / "run")
    probe.diverging = [seeds[i] for i in worst]
    found = probe.best(seeds).seeds
    assert found.figures == [None if i in worst else f for i, f in enumerate(all_of_them)]
    left = [figure for i, figure in enumerate(all_of_them) if i not in worst]
    assert all_of_them[found.chosen - 1] == max(left)
    assert found.spread == pytest.approx(np.std(left, ddof=1))
    assert probe.said[0].startswith("seed 1 of 4, which counts as the worst: phase probe, learn")
    assert f"over {4 - count} seeds val_accuracy" in probe.said[4]


def test_where_all_seeds_but_one_diverge_there_is_no_spread(tmp_path):
    probe = Probe(tmp_path / "run")
    probe.diverging = seeds_of(0, 3)[:2]
    found = probe.best(seeds_of(0, 3)).seeds
    assert (found.chosen, found.spread) == (3, None)
    assert probe.said[3] == "phase probe: seed 3 goes on, the only one that did not diverge"


def test_all_seeds_diverging_fails(tmp_path):
    probe = Probe(tmp_path / "run")
    probe.diverging = seeds_of(0, 2)
    with pytest.raises(
        UserError, match=r"phase probe, learning_rate 1e\+38: training has diverged"
    ):
        probe.best(seeds_of(0, 2))


def test_a_whole_run_from_several_heads(preset, tmp_path):
    config = config_for(preset, probe_seeds=3, probe_epochs=3, dropout=0.1)
    result = fine_tune(config, tmp_path / "run", classes(), say=lambda line: None)
    probe, tune = result.metrics["phases"]
    assert len(probe["seeds"]["figures"]) == 3
    assert tune["seeds"] is None
    assert [row["phase"] for row in result.history] == ["probe"] * 3 + ["tune"]
    # Tuning begins where the best head ended, and with its optimiser's steps.
    assert tune["start"]["val_accuracy"] == pytest.approx(max(probe["seeds"]["figures"]))
    report = (tmp_path / "run" / "report.md").read_text()
    assert "Phase probe was trained from 3 initial heads: val_accuracy" in report
    assert f"Head {probe['seeds']['chosen']} went on." in report
    one = config_for(preset, probe_epochs=3, dropout=0.1)
    alone = fine_tune(one, tmp_path / "one", classes(), say=lambda line: None)
    first = alone.metrics["phases"][0]
    assert first["seeds"] is None
    best = first["history"][first["best_epoch"] - 1] if first["best_epoch"] else first["start"]
    assert best["val_accuracy"] == probe["seeds"]["figures"][0]


def test_a_head_that_was_trained_before_is_not_begun_anew(preset, tmp_path):
    phases = (dataclasses.replace(PHASE, name="one"), dataclasses.replace(PHASE, name="two"))
    config = config_for(preset, phases=phases, probe_seeds=2)
    result = fine_tune(config, tmp_path / "run", classes(), say=lambda line: None)
    one, two = result.metrics["phases"]
    assert len(one["seeds"]["figures"]) == 2
    assert two["seeds"] is None
    assert two["start"]["val_accuracy"] == pytest.approx(max(one["seeds"]["figures"]))


def test_the_plan_counts_the_updates_of_all_seeds(preset):
    def updates(seeds):
        text = plan(config_for(preset, phases="probe", probe_seeds=seeds), classes())
        (row,) = [line for line in text.splitlines() if line.startswith("probe ")]
        return int(row.split()[3])

    assert updates(3) == 3 * updates(1)
