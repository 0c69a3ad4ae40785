"""A whole tuning of seconds: what it tries, keeps, prunes and goes on from."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tests import runs
from tests.pictures import arrays_of_pictures
from tests.tiny_pictures import save_image_preset
from tf_finetune.config import differences
from tf_finetune.errors import UserError
from tf_finetune.fit import planned_cuts
from tf_finetune.fit.frozen_part import FrozenPart
from tf_finetune.fit.spike_guard import Diverged
from tf_finetune.recipe import load_recipe
from tf_finetune.tuning import loop
from tf_finetune.tuning import study as module
from tf_finetune.tuning.study import tune

optuna = pytest.importorskip("optuna", reason="optuna is not installed")
SPACE = {"fit.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "model.dropout": [0.0, 0.3]}


def config_of(preset, **changes):
    config = runs.config_for(preset, dropout=0.0, **changes)
    config.tune.space = SPACE
    return config


def trials_of(folder):
    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{folder / 'trials.db'}")
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


@pytest.fixture(scope="module")
def tuned(preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "run"
    said = []
    result = tune(config_of(preset), folder, runs.classes(), trials=3, say=said.append)
    return folder, result, said


@pytest.fixture
def quick(monkeypatch):
    """Trials that train nothing: their figures are given; and no final run."""

    def use(figures, fails=None):
        tried = []

        def run(config, folder, cache, data, reached, say):
            tried.append((config.fit.learning_rate, config.model.dropout))
            if fails:
                fails(len(tried))
            for i, figure in enumerate(found := figures(len(tried))):
                reached(figure, i == len(found) - 1)
            return "the digest"

        monkeypatch.setattr(loop, "run_trial", run)
        monkeypatch.setattr(module, "_set_up", lambda *_: "the digest")
        monkeypatch.setattr(
            module, "fine_tune", lambda config, *_, **__: SimpleNamespace(config=config)
        )
        return tried

    return use


def test_the_run_with_the_best_settings_is_made_and_can_be_made_again(tuned, preset):
    folder, result, said = tuned
    trials = trials_of(folder)
    assert len(trials) == 3
    # First the recipe's own settings.
    assert trials[0].params == {"fit.learning_rate": 1e-4, "model.dropout": 0.0}
    best = max(trials, key=lambda trial: trial.value)
    config = load_recipe(folder / "best.py")
    found = json.loads((folder / "best" / "config.json").read_text())
    assert json.loads(config.to_json()) == found
    assert config.fit.learning_rate == best.params["fit.learning_rate"]
    changed = [line.partition(":")[0] for line in differences(config_of(preset), config)]
    assert set(changed) <= {*SPACE, "tune.space"}
    assert result.workdir == folder / "best"
    assert result.metrics["test"]["rows"] == 16
    told = (folder / "tuning.md").read_text()
    assert told.count("| **best** |") == 1
    assert f"| {best.params['fit.learning_rate']:.3g} |" in told
    assert sorted(path.name for path in folder.iterdir()) == [
        *("best", "best.py", "cache", "trials.db", "tuning.json", "tuning.md")
    ]
    assert any(line.startswith("best of 3 trials") for line in said)
    # Texts are cut once for all trials.
    assert len(list((folder / "cache").glob("tokens-*"))) == 1


def test_a_trial_is_the_run_up_to_its_test(tuned):
    folder, result, _ = tuned
    best = max(trials_of(folder), key=lambda trial: trial.value)
    figures = [
        phase["history"][phase["best_epoch"] - 1] if phase["best_epoch"] else phase["start"]
        for phase in result.metrics["phases"]
    ]
    assert [figure["val_accuracy"] for figure in figures] == best.user_attrs["figures"]


def test_the_frozen_backbone_is_run_once_for_all_trials(preset, tmp_path, monkeypatch):
    passes, run = [], FrozenPart._run_backbone

    def counted(*args):
        passes.append(1)
        return run(*args)

    monkeypatch.setattr(FrozenPart, "_run_backbone", counted)
    monkeypatch.setattr(
        module, "fine_tune", lambda config, *_, **__: SimpleNamespace(config=config)
    )
    config = config_of(preset, phases="probe")
    config.tune.space = {"fit.probe_learning_rate": [1e-3, 1e-2], "model.dropout": [0.0, 0.3]}
    tune(config, tmp_path / "run", runs.classes(), trials=3, say=lambda line: None)
    assert len(passes) == 1
    # Another backbone's features are not taken for these.
    config.tune.space = {"fit.probe_learning_rate": [1e-3]}
    config.model.pooling = "max"
    shutil.copytree(tmp_path / "run" / "cache", tmp_path / "other" / "cache")
    (tmp_path / "other" / "tuning.json").write_text(config.to_json())
    tune(config, tmp_path / "other", runs.classes(), trials=1, say=lambda line: None)
    assert len(passes) == 2


def test_trials_share_activations_which_go_when_all_have_ended(preset, tmp_path, monkeypatch):
    left = []

    def removed(folder):
        left.append({path.name.partition("-")[0] for path in folder.iterdir()})
        remove(folder)

    remove = module.remove_kept
    monkeypatch.setattr(module, "remove_kept", removed)
    monkeypatch.setattr(
        module, "fine_tune", lambda config, *_, **__: SimpleNamespace(config=config)
    )
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 0, "GPU": 0})
    passes, make = [], FrozenPart._pass

    def counted(*args):
        passes.append(1)
        return make(*args)

    monkeypatch.setattr(FrozenPart, "_pass", counted)
    config = config_of(preset, phases="gradual")
    config.tune.space = {"fit.weight_decay": [0.0, 0.1]}
    tune(config, tmp_path / "run", runs.classes(), trials=2, say=lambda line: None)
    assert len(passes) == 1
    kept = {"features", "activations", "costs.json"}
    assert left == [{"rows.arrow", "splits.npz", "tokens", *kept}]
    names = {path.name.partition("-")[0] for path in (tmp_path / "run" / "cache").iterdir()}
    assert names == {"rows.arrow", "splits.npz", "tokens"}


def test_pictures_are_tuned_too(tmp_path):
    config = runs.config_for(save_image_preset(tmp_path / "tiny.keras"), augment="light")
    config.model.sequence_length = 0
    config.tune.space = {"fit.layer_decay": [0.7, 1.0], "model.dropout": [0.0, 0.3]}
    rows = arrays_of_pictures(count=20)
    result = tune(config, tmp_path / "run", rows, trials=2, say=lambda line: None)
    assert [len(trial.params) for trial in trials_of(tmp_path / "run")] == [2, 2]
    assert result.metrics["test"]["rows"] == 8


def test_no_trial_sees_a_test_row(preset, tmp_path, monkeypatch):
    from tf_finetune.tuning import trials

    seen, kept = [], []

    def set_up(*given, **options):
        setup = original(*given, **options)
        store = type(setup.store)
        batch = store.batch

        def watched(self, rows):
            seen.append(rows)
            return batch(self, rows)

        monkeypatch.setattr(store, "batch", watched)
        kept.append(setup.prepared.splits)
        return setup

    original = trials.set_up
    monkeypatch.setattr(trials, "set_up", set_up)
    monkeypatch.setattr(
        module, "fine_tune", lambda config, *_, **__: SimpleNamespace(config=config)
    )
    tune(config_of(preset), tmp_path / "run", runs.classes(), trials=1, say=lambda line: None)
    rows = np.unique(np.concatenate(seen))
    assert not np.isin(rows, kept[0]["test"]).any()
    assert np.isin(kept[0]["validation"], rows).all()


def test_a_worse_trial_is_pruned_after_a_phase(preset, tmp_path, quick):
    quick(lambda number: [0.1 if number == 7 else 0.8, 0.8 + number / 100])
    folder = tmp_path / "run"
    tune(config_of(preset), folder, trials=8, say=lambda line: None)
    hows = [trial.user_attrs["how"] for trial in trials_of(folder)]
    assert hows == [*["finished"] * 6, "pruned", "finished"]
    assert trials_of(folder)[6].user_attrs["figures"] == [0.1]


def test_what_was_cut_off_comes_to_the_same_trials(preset, tmp_path, quick):
    def cut(number):
        if number == 4:
            raise KeyboardInterrupt

    whole = quick(lambda number: [number / 10])
    tune(config_of(preset), tmp_path / "whole", trials=7, say=lambda line: None)
    before = quick(lambda number: [number / 10], cut)
    with pytest.raises(KeyboardInterrupt):
        tune(config_of(preset), tmp_path / "cut", trials=7, say=lambda line: None)
    after = quick(lambda number: [(number + 3) / 10])
    tune(config_of(preset), tmp_path / "cut", trials=7, say=lambda line: None)
    assert before[:3] + after == whole
    assert before[3] == after[0]
    assert len(set(whole)) == 7
    # The same call again tries nothing more; a larger budget goes on.
    more = quick(lambda number: [0.0])
    tune(config_of(preset), tmp_path / "cut", trials=7, say=lambda line: None)
    assert more == []
    tune(config_of(preset), tmp_path / "cut", trials=9, say=lambda line: None)
    assert len(more) == 2


def test_a_budget_of_time_ends_it(preset, tmp_path, quick, monkeypatch):
    clock = iter(range(0, 10_000, 50))
    # Not the module's own: whoever is imported meanwhile would keep this clock for ever.
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    tried = quick(lambda number: [0.5])
    # 50 s each: after the second, 100 s have gone.
    tune(config_of(preset), tmp_path / "run", minutes=1.5, say=lambda line: None)
    assert len(tried) == 2


def test_a_trial_that_diverges_is_the_worst(preset, tmp_path, quick):
    def diverge(number):
        if number == 2:
            raise Diverged("the loss is nan")

    quick(lambda number: [number / 10], diverge)
    folder = tmp_path / "run"
    best = tune(config_of(preset), folder, trials=3, say=lambda line: None)
    assert "| diverged |" in (folder / "tuning.md").read_text()
    third = trials_of(folder)[2]
    assert best.config.fit.learning_rate == third.params["fit.learning_rate"]


def test_settings_that_do_not_go_together_are_refused_and_the_others_tried(preset, tmp_path, quick):
    tried = quick(lambda number: [number / 10])
    config = config_of(preset)
    config.tune.space = {"phases": ["probe", "full"], "fit.l2_sp": [0.0, 10.0]}
    said = []
    tune(config, tmp_path / "run", trials=12, say=said.append)
    hows = [trial.user_attrs["how"] for trial in trials_of(tmp_path / "run")]
    assert len(hows) == 12
    assert {"refused", "finished"} == set(hows)
    assert len(tried) == hows.count("finished")
    assert any("refused: config.fit.l2_sp" in line for line in said), said
    assert "| refused |" in (tmp_path / "run" / "tuning.md").read_text()


def test_settings_that_the_model_cannot_have_are_refused_and_the_others_tried(
    preset, tmp_path, monkeypatch
):
    """Which no check of the settings alone knows."""
    monkeypatch.setattr(
        module, "fine_tune", lambda config, *_, **__: SimpleNamespace(config=config)
    )
    config = config_of(preset, phases="probe", probe_epochs=1)
    config.tune.space = {"model.sequence_length": [16, 4096]}
    said = []
    best = tune(config, tmp_path / "run", runs.classes(), trials=6, say=said.append)
    assert best.config.model.sequence_length == 16
    hows = [trial.user_attrs["how"] for trial in trials_of(tmp_path / "run")]
    assert {"refused", "finished"} == set(hows)
    assert any("refused: config.model.sequence_length is 4096" in line for line in said), said


def test_a_trial_that_fails_does_not_block_the_others(preset, tmp_path, quick):
    def fail(number):
        if number == 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating\nmore")

    tried, said = quick(lambda number: [number / 10], fail), []
    tune(config_of(preset), tmp_path / "run", trials=3, say=said.append)
    assert len(tried) == 3
    hows = [trial.user_attrs["how"] for trial in trials_of(tmp_path / "run")]
    assert hows == ["finished", "failed", "finished"]
    assert any("trial 2: OOM when allocating" in line for line in said)


def test_a_mistake_of_every_trial_is_told_and_no_trial_is_spent(preset, tmp_path):
    config = config_of(preset, phases="probe", label="stars")
    config.tune.space = {"model.dropout": [0.0, 0.1]}
    with pytest.raises(UserError, match="stars"):
        tune(config, tmp_path / "run", runs.classes(), trials=3, say=lambda line: None)
    assert trials_of(tmp_path / "run") == []


def test_recipes_are_not_pruned_by_phases_of_others(preset, tmp_path, quick):
    """The first figure of one with more phases is that of its head alone."""
    quick(lambda number: [0.9] if number <= 6 else [0.1, 0.95])
    config = config_of(preset)
    config.tune.space = {"phases": ["full", "probe_then_tune"], "model.dropout": [0.0, 0.1, 0.3]}
    tune(config, tmp_path / "run", trials=9, say=lambda line: None)
    assert {trial.user_attrs["how"] for trial in trials_of(tmp_path / "run")} == {"finished"}


def test_what_the_final_run_would_refuse_is_told_before_any_trial(
    preset, tmp_path, quick, monkeypatch
):
    tried = quick(lambda number: [0.5])
    with pytest.raises(UserError, match="nowhere"):
        tune(config_of(preset, previous=str(tmp_path / "nowhere")), tmp_path / "run", trials=1)
    monkeypatch.setattr(module.every_format, "_EXTRAS", {"onnx": ("no_such_module",)})
    with pytest.raises(UserError, match='names "onnx", which needs no_such_module'):
        tune(config_of(preset, export=True, formats=("onnx",)), tmp_path / "run", trials=1)
    assert tried == []


def test_a_better_trial_of_a_larger_budget_has_a_run_of_its_own(
    preset, tmp_path, quick, monkeypatch
):
    quick(lambda number: [number / 10])
    folders, said = [], []

    def run(config, folder, *_, **__):
        folders.append(folder.name)
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(config.to_json())
        if folder.name == "best":  # the next one is stopped
            (folder / "metrics.json").write_text("{}")
        return SimpleNamespace(config=config)

    monkeypatch.setattr(module, "fine_tune", run)
    for trials in (2, 2):
        tune(config_of(preset), tmp_path / "run", trials=trials, say=said.append)
    assert folders == ["best", "best"]
    assert not any("once more" in line for line in said)
    quick(lambda number: [1.0])
    monkeypatch.setattr(module, "fine_tune", run)
    tune(config_of(preset), tmp_path / "run", trials=3, say=said.append)
    assert folders == ["best", "best", "best-2"]
    assert any("reads the test split once more" in line for line in said)
    told = (tmp_path / "run" / "tuning.md").read_text()
    assert "the final run in `best-2/` used once (`best-2/report.md`)" in told
    assert "their runs (`best/`) read the test split too" in told
    said.clear()
    quick(lambda number: [2.0])
    monkeypatch.setattr(module, "fine_tune", run)
    tune(config_of(preset), tmp_path / "run", trials=4, say=said.append)
    assert folders[-1] == "best-3"
    assert sum("once more" in line for line in said) == 1  # the one that was stopped read nothing
    assert "their runs (`best/`) read" in (tmp_path / "run" / "tuning.md").read_text()


def test_a_trial_that_ended_as_its_process_did_is_not_tried_again(preset, tmp_path, quick):
    tried = quick(lambda number: [0.5])
    tune(config_of(preset), tmp_path / "run", trials=1, say=lambda line: None)
    study = optuna.load_study(
        study_name="tune", storage=f"sqlite:///{tmp_path / 'run' / 'trials.db'}"
    )
    trial = study.ask()
    trial.suggest_float("fit.learning_rate", 1e-4, 1e-1, log=True)
    trial.suggest_categorical("model.dropout", [0.0, 0.3])
    for name, fact in {"figures": [0.9], "seconds": 1.0, "how": "finished"}.items():
        trial.set_user_attr(name, fact)
    tried.clear()
    tune(config_of(preset), tmp_path / "run", trials=2, say=lambda line: None)
    assert tried == []
    assert trials_of(tmp_path / "run")[1].value == 0.9


def test_a_regression_is_the_better_the_smaller_its_error(preset, tmp_path, quick):
    quick(lambda number: [1.0 / number])
    config = config_of(preset, task="regression")
    best = tune(config, tmp_path / "run", trials=3, say=lambda line: None)
    assert (
        best.config.fit.learning_rate == trials_of(tmp_path / "run")[2].params["fit.learning_rate"]
    )


def test_another_folder_or_configuration_is_refused(preset, tmp_path, quick):
    quick(lambda number: [0.5])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dear.txt").write_text("dear")
    with pytest.raises(UserError, match=r"is not empty \(it holds dear.txt\)"):
        tune(config_of(preset), tmp_path / "mine", trials=1)
    tune(config_of(preset), tmp_path / "run", trials=1, say=lambda line: None)
    with pytest.raises(UserError, match=r"another configuration:\n  fit.epochs: 1 -> 2"):
        tune(config_of(preset, epochs=2), tmp_path / "run", trials=1)
    with pytest.raises(UserError, match="tuning runs on one device so far"):
        tune(config_of(preset, strategy="mirrored"), tmp_path / "other", trials=1)
    with pytest.raises(UserError, match="trials is 0; it must be at least 1"):
        tune(config_of(preset), tmp_path / "other", trials=0)


def test_other_data_are_refused(preset, tmp_path, quick, monkeypatch):
    quick(lambda number: [0.5])
    tune(config_of(preset), tmp_path / "run", trials=1, say=lambda line: None)
    monkeypatch.setattr(loop, "run_trial", lambda *_: "another digest")
    with pytest.raises(UserError, match="holds a tuning on other data"):
        tune(config_of(preset), tmp_path / "run", trials=2, say=lambda line: None)


def test_without_optuna_the_extra_is_named(preset, tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install \"tf_finetune\[tune\]\""):
        tune(config_of(preset), tmp_path / "run")


def test_a_format_that_the_model_cannot_have_is_told_before_any_trial(preset, tmp_path):
    config = config_of(preset, export=True, formats=("saved_model", "litert_dynamic"))
    with pytest.raises(UserError, match="litert_dynamic"):
        tune(config, tmp_path / "run", runs.classes(), trials=2, say=lambda line: None)
    assert trials_of(tmp_path / "run") == []


def test_other_data_are_refused_where_no_trial_is_left(preset, tmp_path):
    config = config_of(preset)
    tune(config, tmp_path / "run", runs.classes(), trials=1, say=lambda line: None)
    with pytest.raises(UserError, match="a tuning on other data"):
        tune(config, tmp_path / "run", runs.classes(60), trials=1, say=lambda line: None)


def test_a_first_value_that_the_model_cannot_have_stops_no_tuning(preset, tmp_path):
    config = config_of(preset, phases="full", train="all", probe_baseline=False)
    config.tune.space = {"fit.train": ["last:99", "last:1"]}
    said: list[str] = []
    tune(config, tmp_path / "run", runs.classes(), trials=4, say=said.append)
    trials = trials_of(tmp_path / "run")
    assert {t.user_attrs["how"] for t in trials if t.params["fit.train"] == "last:1"} == {
        "finished"
    }
    assert all("refused" in t.user_attrs["how"] for t in trials if "99" in t.params["fit.train"])
