"""Whole runs, from data to a saved model, on a tiny random BERT."""

import copy
import io
import json
import shutil
import zipfile

import h5py
import numpy as np
import pyarrow as pa
import pytest

from tests import runs
from tests.runs import config_for
from tf_finetune.assemble import set_up
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.errors import ExportError, UserError
from tf_finetune.exports import every_format
from tf_finetune.exports.load import load_model
from tf_finetune.model import backbones
from tf_finetune.plan import plan
from tf_finetune.recipe import load_recipe
from tf_finetune.reexport import export_run
from tf_finetune.results.calibration import error
from tf_finetune.train import fine_tune

SAMPLE = ["the plot was good", "bad film", "", "good good was a bad plot is the film"]


def train(config, workdir, data=None):
    return fine_tune(config, workdir, data, say=lambda line: None)


def assert_equal_weights(a, b):
    for x, y in zip(a.weights, b.weights, strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy(), err_msg=x.path)


def test_a_run_folder_holds_all_that_was_promised(finished):
    folder = finished.result.workdir
    names = {
        *("config.json", "data_report.md", "metrics.jsonl", "metrics.json", "report.md"),
        *("model.keras", "checkpoints", "logs", "export", "cache", "label_audit.csv"),
        *("report.html", "README.md", "test_outputs.npz", "findings.csv"),
        *("test_readings.json", "recipe.py"),
    }
    assert {path.name for path in folder.iterdir()} == names
    assert FineTuneConfig.from_json((folder / "config.json").read_text()) == finished.config
    assert load_recipe(folder / "recipe.py") == finished.config
    assert (
        f"To make it again: `tf-finetune --config={folder / 'recipe.py'} --workdir=ANOTHER`"
        in (folder / "report.md").read_text()
    )
    for phase in ("1-probe", "2-tune"):
        weights = {path.name for path in (folder / "checkpoints" / phase).iterdir()}
        assert weights == {"best.weights.h5"}
        assert list((folder / "logs" / phase / "train").glob("events.out.tfevents.*"))
    assert (folder / "export" / "saved_model" / "1" / "saved_model.pb").is_file()
    assert not list(folder.rglob("*.tmp"))
    assert "the command" in (folder / "report.md").read_text()


def test_an_export_that_fails_loses_no_run(preset, tmp_path, monkeypatch):
    def fail(*_):
        raise ExportError("The SavedModel differs from the model by 1.\nmore")

    folder = tmp_path / "run"
    config = config_for(preset, export=True, phases="probe", formats=("saved_model", "keras_hub"))
    with monkeypatch.context() as patch:
        patch.setattr(every_format, "_saved_model", fail)
        with pytest.raises(ExportError, match=r"The run is finished(.|\n)*--mode=export") as told:
            train(config, folder, runs.classes())
    assert "differs from the model by 1" in str(told.value)
    card = json.loads((folder / "metrics.json").read_text())
    assert card["failed_exports"].keys() == {"saved_model"}
    assert card["exports"].keys() == {"keras_hub"}
    assert card["export"] is None
    for report in ("report.md", "report.html"):
        text = (folder / report).read_text()
        assert "There is no export as" in text
        assert "differs from the model by 1" not in text  # it may show a row
    for report in ("report.md", "README.md"):
        text = (folder / report).read_text()
        assert "No SavedModel was written (it failed; `--mode=export` tries again)" in text
    again = train(config, folder, runs.classes())  # nothing is trained or judged anew
    assert again.metrics == card
    export_run(folder, formats=("saved_model",))
    assert (folder / "export" / "saved_model" / "1" / "saved_model.pb").is_file()


def test_the_card_and_the_history_are_those_on_disk(finished):
    result = finished.result
    assert result.metrics == json.loads((result.workdir / "metrics.json").read_text())
    lines = (result.workdir / "metrics.jsonl").read_text().splitlines()
    assert result.history == [json.loads(line) for line in lines]
    assert [row["phase"] for row in result.history] == ["probe"] * 2 + ["tune"] * 15


def test_what_can_be_learnt_is_learnt(finished):
    card = finished.result.metrics
    assert card["test"]["rows"] == 16
    assert card["test"]["accuracy"] > 0.9
    assert card["baselines"]["majority"]["accuracy"] < 0.7
    low, high = card["test"]["accuracy_interval"]
    assert 0 <= low <= card["test"]["accuracy"] <= high <= 1
    gain = card["test"]["accuracy"] - card["baselines"]["probe"]["accuracy"]
    assert card["gain_over_probe"]["value"] == pytest.approx(gain)


def test_what_is_said_of_a_phase(finished):
    (tune,) = [line for line in finished.said if line.startswith("phase tune: trainable")]
    total = finished.result.model.network.count_params()
    begins = f"phase tune: trainable {total:,} of {total:,} (100.0%), rate 0.01, up to 15 x "
    assert tune.removeprefix(begins) in ("5 updates", "6 updates")  # of 8 of some 48 rows
    probe, tune = finished.result.metrics["phases"]
    assert (probe["trainable"], probe["total"]) == (2 * 16 + 2, total)
    assert tune["audit"]["frozen_unchanged"] == 0


def test_the_saved_model_predicts_bit_for_bit_the_same(finished):
    model = load_model(finished.result.workdir)
    np.testing.assert_array_equal(model.predict(SAMPLE), finished.result.model.predict(SAMPLE))


@pytest.fixture(scope="module")
def unsure(preset, tmp_path_factory):
    """A run whose labels are wrong by chance, so that being sure does not pay."""
    table, random = runs.classes(400), np.random.default_rng(0)
    flipped = random.random(400) < 0.3
    table["label"] = [
        runs.CLASSES[(label == "pos") != bool(wrong)]
        for label, wrong in zip(table["label"], flipped, strict=True)
    ]
    config = config_for(preset, phases="full", epochs=8, learning_rate=1e-2, export=True)
    config.data.conflicts = config.data.leaks = config.data.duplicates = "warn"
    return train(config, tmp_path_factory.mktemp("unsure") / "run", table)


def test_all_that_is_shipped_gives_calibrated_probabilities(unsure):
    folder, found = unsure.workdir, unsure.metrics["calibration"]
    assert found["temperature"] > 1.05
    assert found["after"]["log_loss"] < found["before"]["log_loss"]
    table = pa.ipc.open_file(folder / "cache" / "rows.arrow").read_all()
    rows = np.load(folder / "cache" / "splits.npz")["test"]
    texts, labels = (table[n].take(pa.array(rows)).to_pylist() for n in ("text", "label"))
    truth = np.array([runs.CLASSES.index(label) for label in labels])
    for model in (unsure.model, load_model(folder), load_model(folder / "export")):
        shares = model.predict(texts)
        assert error("classification", shares, truth) == pytest.approx(
            found["after"]["ece"], abs=1e-4
        )
        likely = np.log(shares[np.arange(len(truth)), truth]).mean()
        assert -likely == pytest.approx(found["after"]["log_loss"], rel=1e-4)
        assert -likely == pytest.approx(unsure.metrics["test"]["log_loss"], rel=1e-4)


def test_a_run_without_calibration_ships_what_was_trained(preset, tmp_path):
    config = config_for(preset, calibrate=False, phases="probe")
    result = train(config, tmp_path / "run", runs.classes())
    found = result.metrics["calibration"]
    assert result.model.temperature == found["temperature"] == 1.0
    assert found["before"] == found["after"]


def test_the_saved_model_holds_each_weight_once_and_nothing_else(finished):
    sizes = {}
    with (
        zipfile.ZipFile(finished.result.workdir / "model.keras") as parts,
        h5py.File(io.BytesIO(parts.read("model.weights.h5"))) as file,
    ):
        file.visititems(lambda name, found: sizes.update({name: getattr(found, "size", 0)}))
    random = sum(size for name, size in sizes.items() if "seed_generator" in name)
    assert sum(sizes.values()) - random == finished.result.model.count_params()
    assert not [name for name in sizes if "optimizer" in name]


def test_no_text_of_a_held_out_row_was_trained_on(finished):
    cache = finished.result.workdir / "cache"
    table = pa.ipc.open_file(cache / "rows.arrow").read_all()
    splits = np.load(cache / "splits.npz")
    texts = {name: set(table["text"].take(pa.array(splits[name])).to_pylist()) for name in splits}
    assert [len(texts[name]) for name in ("validation", "test")] == [16, 16]
    assert not texts["train"] & (texts["validation"] | texts["test"])
    assert not texts["validation"] & texts["test"]


def test_the_same_again_does_nothing(finished):
    folder, said = finished.result.workdir, []
    before = runs.files_of(folder)
    again = fine_tune(finished.config, folder, say=said.append)
    assert runs.files_of(folder) == before
    assert said == [f"{folder} holds this run, finished; nothing to do."]
    assert (again.metrics, again.history) == (finished.result.metrics, finished.result.history)
    np.testing.assert_array_equal(again.model.predict(SAMPLE), load_model(folder).predict(SAMPLE))


def test_another_configuration_is_refused(finished):
    folder = finished.result.workdir
    before = runs.files_of(folder)
    other = copy.deepcopy(finished.config)
    other.fit.epochs, other.data.seed = 16, 5
    with pytest.raises(UserError, match=r"fit\.epochs: 15 -> 16") as refused:
        train(other, folder)
    assert "data.seed: 0 -> 5" in str(refused.value)
    assert str(refused.value).count("->") == 2
    assert runs.files_of(folder) == before


def test_other_data_in_the_folder_of_a_finished_run_are_refused(finished):
    folder = finished.result.workdir
    before = runs.files_of(folder)
    # Data handed over in Python are not named in the configuration.
    same, other = runs.classes(), runs.classes(60)
    assert fine_tune(finished.config, folder, same).metrics == finished.result.metrics
    with pytest.raises(UserError, match="holds a run on other data"):
        train(finished.config, folder, other)
    assert runs.files_of(folder) == before


@pytest.fixture(scope="module")
def full(preset, tmp_path_factory):
    """Everything trained at once, with the head alone beside it, planned or not."""
    folder = tmp_path_factory.mktemp("full")
    config = config_for(preset, phases="full", probe_baseline=False, export=False)
    plan(config, runs.classes())
    alone = train(config, folder / "alone", runs.classes())
    config = copy.deepcopy(config)
    config.results.probe_baseline = True
    return train(config, folder / "beside", runs.classes()), alone


def test_the_probe_beside_a_run_does_not_change_it(full):
    beside, alone = full
    assert_equal_weights(beside.model, alone.model)
    assert beside.metrics["test"] == alone.metrics["test"]
    assert set(beside.metrics["baselines"]) == {"majority", "probe"}
    assert [row["phase"] for row in beside.history] == ["probe-baseline"] * 2 + ["tune"]
    assert [phase["name"] for phase in beside.metrics["phases"]] == ["tune"]


def test_without_probe_and_export(full):
    _, alone = full
    assert set(alone.metrics["baselines"]) == {"majority"}
    assert "gain_over_probe" not in alone.metrics
    assert alone.metrics["export"] is None
    assert not (alone.workdir / "export").exists()


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    """The head alone, on features computed once and on features computed each time."""
    folder = tmp_path_factory.mktemp("probe")
    # Dropout below the head is random only where the backbone runs each time.
    still, made = runs.save_preset(folder / "still.keras", dropout=0.0), []
    for cache in (True, False):
        config = config_for(still, phases="probe", cache=cache, dropout=0.0)
        made.append(train(config, folder / str(cache), runs.of_one_length()))
    return made


def test_features_kept_train_the_head_as_features_made_anew(probes):
    for a, b in zip(probes[0].model.weights, probes[1].model.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5, err_msg=a.path)
    first, second = (probe.metrics["phases"][0] for probe in probes)
    assert (first["trainable"], first["total"]) == (second["trainable"], second["total"])


def test_a_probe_leaves_the_backbone_as_it_was(probes):
    config = FineTuneConfig.from_json((probes[0].workdir / "config.json").read_text())
    before = backbones.load(config.model.preset).backbone
    for probe in probes:
        assert_equal_weights(probe.model.backbone, before)


def test_a_run_without_checkpoints_begins_again_and_ends_the_same(probes, tmp_path):
    folder = shutil.copytree(probes[0].workdir, tmp_path / "run")
    config = FineTuneConfig.from_json((folder / "config.json").read_text())
    for name in ("metrics.json", "model.keras"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints")
    again = train(config, folder, runs.of_one_length())
    assert runs.without_times(again.metrics) == runs.without_times(probes[0].metrics)
    assert_equal_weights(again.model, probes[0].model)
    assert len(again.history) == len(probes[0].history)
    assert len(list((folder / "logs" / "1-probe" / "train").glob("events*"))) == 1


def test_a_probe_is_not_compared_with_itself(probes):
    for probe in probes:
        assert set(probe.metrics["baselines"]) == {"majority"}
        assert "gain_over_probe" not in probe.metrics


def test_a_head_on_a_tuned_backbone_is_no_baseline(preset, tmp_path):
    phases = (Phase(train="all", epochs=1), Phase(train="head", epochs=1))
    config = config_for(preset, phases=phases, probe_baseline=False)
    card = train(config, tmp_path / "run", runs.classes()).metrics
    assert set(card["baselines"]) == {"majority"}
    assert "gain_over_probe" not in card


def test_what_a_recipe_does_not_read_is_said(preset, tmp_path):
    said = []
    config = config_for(preset, phases="lora", learning_rate=1e-5, epochs=1)
    set_up(config, tmp_path, runs.classes(), say=said.append)
    told = [line for line in said if "does not read" in line]
    assert told == ['config.fit.learning_rate is 1e-05, which phases="lora" does not read']


def test_listed_phases_on_several_labels_in_bfloat16(preset, tmp_path):
    phases = (
        Phase(train="last:1", learning_rate=1e-3),
        Phase(name="everything", train="all", epochs=2, learning_rate=1e-3),
    )
    config = config_for(preset, phases=phases, task="multi_label", precision="bfloat16")
    config.data.label_separator = "|"
    result = train(config, tmp_path / "run", runs.several_labels())
    assert result.model.class_names == ("good", "plot")
    folders = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {name for name in folders if not name.isdecimal()} == {
        "0-probe-baseline",
        "1-last-1",
        "2-everything",
    }
    last, everything = result.metrics["phases"]
    assert 0 < last["trainable"] < last["total"] == everything["trainable"]
    assert last["audit"]["frozen_unchanged"] > 0
    assert 0 <= result.metrics["test"]["subset_accuracy"] <= 1
    assert result.metrics["precision"] == "bfloat16"
    assert result.model.compute_dtype == "float32"
    assert {layer.compute_dtype for layer in result.model.backbone.layers} == {"float32"}
    np.testing.assert_array_equal(
        load_model(tmp_path / "run").predict(SAMPLE), result.model.predict(SAMPLE)
    )


def test_regression_in_float16(preset, tmp_path):
    config = config_for(preset, task="regression", precision="float16", epochs=4)
    result = train(config, tmp_path / "run", runs.numbers())
    mae, r2 = (result.metrics["test"][name] for name in ("mae", "r2"))
    # Targets lie around 1,050: only a head that starts there is this near.
    assert mae < 100
    assert r2 is not None
    updates = [row["step"] for row in result.history if row["phase"] == "tune"]
    # The loss scale starts high; steps whose gradients overflow are no updates.
    assert updates == sorted(updates)
    assert 8 <= updates[-1] <= 12
    values = result.model.predict(SAMPLE)
    assert values.shape == (4, 1)
    np.testing.assert_array_equal(load_model(tmp_path / "run").predict(SAMPLE), values)


def test_pairs(preset, tmp_path):
    config = config_for(preset, text_pair="other", phases="probe")
    result = train(config, tmp_path / "run", runs.pairs())
    assert result.model.class_names == ("False", "True")
    columns = (SAMPLE, SAMPLE[::-1])
    shares = result.model.predict(columns)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(load_model(tmp_path / "run").predict(columns), shares)


def test_a_folder_with_other_files_is_refused(preset, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match=r"not empty \(it holds letter.txt\)"):
        train(config_for(preset), tmp_path, runs.classes())
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 33}, r"config.model.sequence_length is 33; .* at most 32 tokens"),
        ({"train": "last:3"}, 'train="last:3", but the backbone has 2 blocks'),
        ({"text": "texts"}, 'no column "texts"'),
        ({"learning_rate": 0.0}, "config.fit.learning_rate is 0.0"),
        ({"pooling": "men"}, 'config.model.pooling is "men"'),
        ({"preset": "no.keras"}, 'there is no file "no.keras"'),
    ],
)
@pytest.mark.parametrize("function", [train, plan])
def test_mistakes_are_found_before_training(preset, tmp_path, function, changes, message):
    config = config_for(preset, **changes)
    arguments = (tmp_path / "run",) if function is train else ()
    with pytest.raises(UserError, match=message):
        function(config, *arguments, data=runs.classes())
    made = runs.files_of(tmp_path / "run") if (tmp_path / "run").exists() else {}
    assert {name for name in made if not name.startswith("cache")} == set()


def test_masking_without_a_mask_token_is_found_before_the_data_are_read(
    preset, tmp_path, monkeypatch
):
    load = backbones.load

    def without_mask(name):
        loaded = load(name)
        del loaded.preprocessor.tokenizer.mask_token_id
        return loaded

    monkeypatch.setattr(backbones, "load", without_mask)
    with pytest.raises(UserError, match=r"config.data.token_mask is 0.1.* has no mask token"):
        train(config_for(preset, token_mask=0.1), tmp_path / "run", runs.classes())
    assert not list((tmp_path / "run").rglob("*.arrow"))


def test_gradient_checkpointing_changes_no_weight(tmp_path):
    preset = runs.save_preset(tmp_path / "tiny.keras", dropout=0.3)
    config = config_for(preset)
    kept = train(config, tmp_path / "kept", runs.classes())
    config.fit.gradient_checkpointing = True
    again = train(config, tmp_path / "again", runs.classes())
    for x, y in zip(kept.model.weights, again.model.weights, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-6, err_msg=x.path)


def test_a_second_reading_of_the_test_split_is_told(preset, tmp_path, monkeypatch):
    config = config_for(preset, phases="probe", probe_epochs=1)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tf_finetune.train.examples_of", stopped)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(config, tmp_path / "run", runs.classes(), say=lambda line: None)
    assert not (tmp_path / "run" / "metrics.json").exists()
    card = fine_tune(config, tmp_path / "run", runs.classes(), say=lambda line: None).metrics
    assert card["test_readings"] == 2
    assert "The test split was read 2 times" in (tmp_path / "run" / "report.md").read_text()
    other = fine_tune(config, tmp_path / "other", runs.classes(), say=lambda line: None)
    assert other.metrics["test_readings"] == 1
    assert other.metrics["test"] == card["test"]
    assert "was read" not in (tmp_path / "other" / "report.md").read_text()
