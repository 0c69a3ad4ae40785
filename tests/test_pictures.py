"""A folder of pictures, trained on and used by the same engine as texts."""

import json

import keras
import keras_hub
import numpy as np
import pytest
from PIL import Image

from tests.pictures import arrays_of_pictures, folder_of_pictures
from tests.runs import StopsAfter, config_for, without_times
from tests.tiny_pictures import save_image_preset, tiny_image_backbone
from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import UserError
from tf_finetune.exports.load import load_model
from tf_finetune.finished import FitResult
from tf_finetune.plan import plan
from tf_finetune.reexport import export_run
from tf_finetune.rerun import evaluate_run
from tf_finetune.results.predict import predict_file, predict_texts
from tf_finetune.stopping import Stopped
from tf_finetune.train import fine_tune

CLASSES = ("circle", "square")


@pytest.fixture(scope="module")
def image_preset(tmp_path_factory):
    return save_image_preset(tmp_path_factory.mktemp("preset") / "tiny.keras")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folder_of_pictures(tmp_path_factory.mktemp("data"), CLASSES, count=30)


def settings(preset, pictures, **changes):
    given = {"epochs": 3, "learning_rate": 1e-2, "global_batch": 8, "augment": "light"}
    given |= {"path": str(pictures), "sequence_length": 0, "flip": True}
    return config_for(preset, **given | changes)


def run_config(run):
    return FineTuneConfig.from_json((run.workdir / "config.json").read_text())


@pytest.fixture(scope="module")
def run(image_preset, pictures, tmp_path_factory) -> FitResult:
    config = settings(image_preset, pictures, export=True)
    return fine_tune(config, tmp_path_factory.mktemp("run"), command="the command")


def test_it_learns_and_says_so(run):
    assert run.metrics["test"]["accuracy"] >= 0.9
    assert run.metrics["image_size"] == 32
    assert set(run.metrics["baselines"]) == {"majority", "probe"}
    report = (run.workdir / "report.md").read_text()
    assert "pictures of 32 pixels a side" in report
    assert 'model.predict(["a.jpg", "b.png"])' in report
    assert "JPEG, PNG, GIF and BMP files" in report
    sheets = {sheet.name for sheet in (run.workdir / "looks").iterdir()}
    assert {"training-pictures.png", "augmentation.png"} <= sheets
    page = (run.workdir / "report.html").read_text()
    assert '<img class="sheet" src="data:image/jpeg' in page
    mistakes = run.metrics["mistakes"]
    assert page.count("The same picture; orange") == len(mistakes)


def test_statistics_of_batch_norms_stay_as_they_were(run, image_preset):
    tune = run.metrics["phases"][-1]["audit"]
    assert (tune["frozen_unchanged"], tune["unmoved"]) == (
        12,
        [],
    )  # three layers, four weights each
    before = load_model(image_preset).backbone
    for layer in (layer for layer in before.layers if "norm" in layer.name):
        after = run.model.backbone.get_layer(layer.name)
        for old, new in zip(layer.get_weights(), after.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


def test_the_model_its_file_and_its_export_agree(run, pictures):
    paths = sorted(pictures.rglob("*.png"))[::7]
    expected = run.model.predict(paths)
    np.testing.assert_array_equal(load_model(run.workdir).predict(paths), expected)
    served = load_model(run.workdir / "export")
    np.testing.assert_allclose(served.predict(paths), expected, atol=0.02)
    rows = predict_texts(run.model, [str(path) for path in paths])
    assert [row["label"] for row in rows] == [CLASSES[i] for i in expected.argmax(axis=1)]
    assert rows[0]["image"] == str(paths[0])


def test_a_folder_is_predicted_and_evaluated(run, image_preset, pictures, tmp_path):
    config = settings(image_preset, pictures)
    done = predict_file(run.model, pictures, tmp_path / "out.jsonl", config)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (done.rows, len(rows)) == (60, 60)
    paths = sorted(pictures.rglob("*.png"))
    found = [[row["probabilities"][name] for name in CLASSES] for row in rows]
    np.testing.assert_allclose(found, run.model.predict(paths), atol=1e-6)
    other = folder_of_pictures(tmp_path, CLASSES, count=10, seed=1)
    lines = evaluate_run(run.workdir, str(other))
    assert "20 rows" in lines
    assert "stand in the data" not in lines
    assert "48 of them stand" in evaluate_run(run.workdir, str(pictures))
    assert "pictures in a fresh process" in export_run(run.workdir, tmp_path / "exported")


def test_a_table_is_predicted_and_evaluated_by_a_run_on_a_folder(run, pictures, tmp_path):
    paths = sorted(pictures.rglob("*.png"))[::9]
    for column in ("image", "picture"):
        table = tmp_path / f"{column}.csv"
        rows = [f"{path},{path.parent.name}" for path in paths]
        table.write_text("\n".join([f"{column},label", *rows]))
        config = run_config(run)
        config.data.image = "" if column == "image" else column
        done = predict_file(run.model, table, tmp_path / f"{column}.jsonl", config)
        assert done.rows == len(paths)
        assert f"{len(paths)} rows" in evaluate_run(run.workdir, str(table), config.data)


def test_a_damaged_picture_is_found_before_anything_is_predicted(run, pictures, tmp_path):
    other = folder_of_pictures(tmp_path, CLASSES, count=3, seed=2)
    (other / "circle" / "0001.png").write_bytes(b"no picture")
    config, output = run_config(run), tmp_path / "out.jsonl"
    with pytest.raises(UserError, match=r"1 x not a picture: .*0001\.png"):
        predict_file(run.model, other, output, config)
    with pytest.raises(UserError, match=r"1 x not a picture: .*0001\.png"):
        evaluate_run(run.workdir, str(other), config.data)
    assert not output.exists()
    config.data.bad_rows = "drop"
    assert predict_file(run.model, other, output, config).rows == 5
    assert "5 rows" in evaluate_run(run.workdir, str(other), config.data)


def test_pictures_in_memory_are_predicted_as_they_are_trained_on(run):
    images, _ = arrays_of_pictures(count=2)
    grey = images[..., 0]
    alpha = np.concatenate([images, np.full((*grey.shape, 1), 255, "uint8")], axis=-1)
    expected = run.model.predict(images)
    served = load_model(run.workdir / "export")
    for model in (run.model, served):
        whole = model.predict(images)
        np.testing.assert_allclose(whole, expected, atol=0.02)
        same = [alpha, [Image.fromarray(one) for one in images]]
        for given in same:
            np.testing.assert_allclose(model.predict(given), whole, atol=1e-6)
        repeated = model.predict(np.repeat(grey[..., None], 3, axis=-1))
        for given in (grey, grey[..., None], [Image.fromarray(one) for one in grey]):
            np.testing.assert_allclose(model.predict(given), repeated, atol=1e-6)
        with pytest.raises(UserError, match=r"found a picture of shape \(9, 9, 2\)"):
            model.predict([np.zeros((9, 9, 2), "uint8")])


@pytest.mark.parametrize("updates", [3, 15])  # of the head; of all
def test_a_stopped_run_ends_as_if_it_had_not_been(updates, run, image_preset, pictures, tmp_path):
    config = settings(image_preset, pictures, export=True)
    with pytest.raises(Stopped):
        fine_tune(config, tmp_path, command="the command", stop=StopsAfter(updates))
    again = fine_tune(config, tmp_path, command="the command")
    assert again.metrics["resumed"] == 1
    for a, b in zip(run.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    cards = [without_times(one.metrics) for one in (run, again)]
    for card in cards:
        card.pop("exports")  # says how long a picture took
    assert cards[0] == cards[1]


def test_a_run_with_cutmix_ends_the_same_when_it_was_stopped(image_preset, tmp_path):
    changes = {"cutmix": 1.0, "micro_batch": 4, "epochs": 2, "train": "last:1", "augment": "none"}
    changes |= {"flip": False, "probe_epochs": 1}
    config, data = settings(image_preset, "", **changes), arrays_of_pictures(2, 16)
    said = []
    whole = fine_tune(config, tmp_path / "whole", data, say=said.append)
    assert any("is not cut, because config.fit.cutmix mixes the pictures" in line for line in said)
    with pytest.raises(Stopped):
        fine_tune(config, tmp_path / "again", data, stop=StopsAfter(5))
    again = fine_tune(config, tmp_path / "again", data)
    assert again.metrics["resumed"] == 1
    for a, b in zip(whole.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    plain = settings(image_preset, "", **changes | {"cutmix": 0.0})
    other = fine_tune(plain, tmp_path / "plain", data)
    pairs = zip(whole.model.get_weights(), other.model.get_weights(), strict=True)
    assert any(np.any(a != b) for a, b in pairs)


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_other_tasks_of_arrays(task, image_preset, tmp_path):
    pixels, labels = arrays_of_pictures(2, 24)
    targets = (
        1000.0 + 10.0 * labels if task == "regression" else ["a|b" if i else "a" for i in labels]
    )
    config = settings(image_preset, "", task=task, augment="none", flip=False, epochs=6)
    if task == "regression":
        pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
        config.results.export, config.results.formats = True, ("litert_int8",)
    result = fine_tune(config, tmp_path, {"image": pixels, "label": targets})
    key, best = ("mae", 4.0) if task == "regression" else ("subset_accuracy", 0.8)
    found = result.metrics["test"][key]
    assert found < best if task == "regression" else found >= best
    if task == "regression":
        check_int8(result, tmp_path)


def check_int8(run, folder):
    """It was judged on all test rows, and is again when it is exported from the run folder."""
    one = run.metrics["exports"]["litert_int8"]
    assert one["texts"] == run.metrics["test"]["rows"]
    facts = one["facts"]
    assert facts["figure"] == "mae"
    assert facts["model"] == pytest.approx(run.metrics["test"]["mae"], rel=1e-5)
    report = (run.workdir / "report.md").read_text()
    assert f"{facts['value']:.4g} (the model {facts['model']:.4g})" in report
    said = export_run(run.workdir, folder / "again")
    assert "litert_int8" in said
    assert f"fresh process, mean absolute error {facts['value']:.4g} (the model" in said


def test_a_plan(image_preset, pictures):
    lines = plan(settings(image_preset, pictures))
    assert "pictures resized to 32 x 32 pixels" in lines
    assert "tune" in lines


def test_what_fits_in_memory_is_tried(image_preset, pictures, tmp_path):
    said = []
    config = settings(image_preset, pictures, micro_batch=-1, epochs=1, phases="full")
    result = fine_tune(config, tmp_path, say=said.append)
    assert result.metrics["micro_batch"] == 0
    assert any("8 rows at a time fit, in a process" in line for line in said)


def test_mistakes_are_named_before_training(preset, image_preset, pictures, tmp_path):
    for config, message in (
        (settings(preset, pictures), r"no model of pictures, as the data are; .*efficientnet_l"),
        (
            settings(image_preset, pictures, sequence_length=16),
            r"length is 16, but the rows are pic",
        ),
        (
            settings(image_preset, pictures, token_swap=0.1),
            r"swap is 0\.1, but the rows are pictu",
        ),
        (settings(image_preset, pictures, pooling="first"), r"gives maps; choose mean or max"),
        (settings(image_preset, pictures, phases="lora"), r"matches none of"),
    ):
        with pytest.raises(UserError, match=message):
            fine_tune(config, tmp_path / "run")
    data = {"text": ["a"] * 20, "label": list("xy") * 10}
    with pytest.raises(UserError, match=r"no model of texts, as the data are; .*minilm"):
        fine_tune(settings(image_preset, "", augment="none", flip=False), tmp_path / "run", data)
    with pytest.raises(UserError, match=r"data\.augment is 'light', but the rows are texts"):
        fine_tune(settings(preset, ""), tmp_path / "run", data)
    config = settings(preset, "", augment="none", flip=False, cutmix=1.0)
    with pytest.raises(UserError, match=r"fit\.cutmix is 1, .* but the rows are texts; .*mixup"):
        fine_tune(config, tmp_path / "run", data)
    assert not (tmp_path / "run" / "config.json").exists()


def test_pictures_of_all_sizes_go_into_a_network_of_one_and_it_is_said(tmp_path):
    inputs, base = keras.Input((32, 32, 3)), tiny_image_backbone()
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    keras.Model(inputs, base(scaled)).save(tmp_path / "fixed.keras")
    folder = folder_of_pictures(tmp_path, CLASSES, count=12)
    for i, path in enumerate(sorted(folder.rglob("*.png"))[::3]):
        Image.open(path).resize((20 + 11 * i, 90 - 7 * i)).save(path)
    said = []
    changes = {"phases": "probe", "augment": "none", "flip": False}
    config = settings(tmp_path / "fixed.keras", folder, **changes)
    result = fine_tune(config, tmp_path / "run", say=said.append)
    assert any("pictures resized to 32 x 32 pixels" in line for line in said)
    assert result.metrics["image_size"] == 32


def test_a_vision_transformer_of_kerashub(tmp_path):
    """Layer norms, and tokens in place of maps."""
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    backbone = keras_hub.models.ViTBackbone(image_shape=(32, 32, 3), patch_size=(8, 8), **sizes)
    converter = keras_hub.layers.ViTImageConverter(image_size=(32, 32), scale=1 / 255)
    backbone.save_to_preset(tmp_path / "vit")
    keras_hub.models.ViTImageClassifierPreprocessor(converter).save_to_preset(tmp_path / "vit")
    folder = folder_of_pictures(tmp_path, CLASSES, count=15)
    config = settings(tmp_path / "vit", folder, train="last:1", pooling="first", epochs=2)
    result = fine_tune(config, tmp_path / "run", say=lambda line: None)
    tune = result.metrics["phases"][-1]
    assert tune["audit"]["unmoved"] == []
    assert tune["audit"]["frozen_unchanged"] > 10
    assert 0 < tune["trainable"] < tune["total"]
    before = keras_hub.models.Backbone.from_preset(str(tmp_path / "vit"))
    moved = [
        old.path
        for old, new in zip(before.weights, result.model.backbone.weights, strict=True)
        if not np.array_equal(old.numpy(), new.numpy())
    ]
    assert moved
    assert not any("block_1" in path or "embedding" in path for path in moved), moved
