"""The Python examples of README and docs, run as they stand there."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

import tf_finetune
from tests import runs
from tests.documents import ROOT, example
from tests.pictures import folder_of_pictures, picture
from tests.tiny_pictures import tiny_image_task
from tests.tokens import sentences, write_conll
from tf_finetune.config import FineTuneConfig, differences
from tf_finetune.data.prepare import Prepared, prepare
from tf_finetune.recipe import load_recipe
from tf_finetune.tuning.space import Range, read_space


def run(name: str, **given: Any) -> dict[str, Any]:
    exec(compile(example(name), name, "exec"), given)
    return given


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, **columns: list) -> None:
    with Path(name).open("w", newline="") as file:
        csv.writer(file).writerows([columns.keys(), *zip(*columns.values(), strict=True)])


def test_the_run_of_the_readme_is_the_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def fine_tune(config: FineTuneConfig, workdir: str) -> SimpleNamespace:
        seen.append(config)
        config.validate()
        model = SimpleNamespace(predict=lambda texts: texts)
        return SimpleNamespace(metrics={"test": {"accuracy": 0.5}}, model=model)

    monkeypatch.setitem(vars(tf_finetune), "fine_tune", fine_tune)
    run("recipe")
    assert differences(load_recipe(ROOT / "configs" / "reviews.py"), seen[0]) == []
    assert capsys.readouterr().out.startswith("0.5\n")


def test_a_model_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = keras.applications.MobileNetV2

    def untrained(**options: Any) -> keras.Model:
        return real(**options, weights=None, alpha=0.35)

    # Its pretrained weights are a download.
    monkeypatch.setattr(keras.applications, "MobileNetV2", untrained)
    x = np.random.default_rng(0).normal(size=(8, 96, 96, 3)).astype("float32")
    given = run("phases", train=(x, np.arange(8) % 5), validation=(x, np.arange(8) % 5))
    assert [phase.name for phase in given["result"].phases] == ["head", "last:2", "all"]
    assert len(given["result"].history) == 7
    data = tf.data.Dataset.from_tensor_slices(given["train"]).batch(8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    run("gradual", **given | {"train": data, "validation": data, "loss": loss})
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in said] == ["epoch 1", "epoch 3", "epoch 5"]
    assert "(100.0%)" not in said[-1]  # the statistics of batch normalisation are no weights


def test_a_model_of_ones_own_goes_a_part_of_the_way_back() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    data = x, (x[:, 0] > 0).astype("int32")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    before = model.get_weights()
    phases = [tf_finetune.Phase(epochs=3, learning_rate=1e-2)]
    given: dict[str, Any] = {"train": data, "validation": data, "phases": phases, "loss": loss}
    given = run("way back", model=model, fit_phases=tf_finetune.fit_phases, **given)
    assert 0 < given["found"].share <= 1
    assert not np.array_equal(before[0], model.get_weights()[0])


def test_the_quick_start(
    preset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tf_finetune.fine_tune
    small = runs.config_for(preset)

    def fine_tune(config: FineTuneConfig, workdir: str) -> Any:
        for field in ("path", "text", "label"):
            setattr(small.data, field, getattr(config.data, field))
        return real(small, workdir, say=lambda line: None)

    monkeypatch.setitem(vars(tf_finetune), "fine_tune", fine_tune)
    write("reviews.csv", comment=(table := runs.classes())["text"], rating=table["label"])
    given = run("quick start")
    assert given["model"].predict(["good"]).shape == (1, 2)
    assert "['neg', 'pos']" in capsys.readouterr().out.replace("(", "[").replace(")", "]")


@pytest.fixture
def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Prepared]:
    """What runs have read and checked, none of which trains."""
    read: list[Prepared] = []

    def fine_tune(config: FineTuneConfig, workdir: str) -> None:
        config.validate()
        (folder / workdir).mkdir(parents=True)
        read.append(prepare(config, folder / workdir))

    monkeypatch.setitem(vars(tf_finetune), "fine_tune", fine_tune)
    return read


def test_texts(prepared: list[Prepared]) -> None:
    table = runs.classes()
    write("reviews.csv", comment=table["text"], rating=table["label"])
    run("texts")
    assert prepared[0].class_names == ("neg", "pos")


def test_pairs(prepared: list[Prepared]) -> None:
    table = runs.pairs()
    write("pairs.csv", premise=table["text"], hypothesis=table["other"], relation=table["label"])
    run("pairs")
    assert prepared[0].class_names == ("False", "True")


def test_several_labels(prepared: list[Prepared]) -> None:
    table = runs.several_labels()
    write("articles.csv", body=table["text"], topics=table["label"])
    run("several labels")
    assert prepared[0].class_names == ("good", "plot")
    assert prepared[0].labels.shape[1] == 2


def test_a_number(prepared: list[Prepared]) -> None:
    table = runs.numbers()
    write("essays.csv", essay=table["text"], grade=table["label"])
    run("a number")
    assert prepared[0].labels.min() > 1000


def test_words(prepared: list[Prepared], folder: Path) -> None:
    write_conll(folder / "names.conll", *sentences())
    run("words")
    assert prepared[0].class_names == ("QUALITY", "WORK")


def test_pictures(prepared: list[Prepared], folder: Path) -> None:
    folder_of_pictures(folder, ("crow", "gull")).rename("birds")
    run("pictures")
    assert prepared[0].class_names == ("crow", "gull")


def test_a_small_model_of_ones_own() -> None:
    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    given = run("own model", x=x, y=y, x_validation=x, y_validation=y)
    head = given["result"].phases[0]
    assert (head.trainable, head.audit.frozen_unchanged) == (66, 6)


def test_rates_and_adapters(folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    data = (x, (x[:, 0] > 0).astype("int32"))
    names = ("query", "value")
    body = keras.Sequential([keras.layers.Dense(8, name=f"{n}_{i}") for i, n in enumerate(names)])
    model = keras.Sequential([keras.Input((8,)), body, keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    given = {"model": model, "train": data, "validation": data, "loss": loss}
    before = model.predict(x, verbose=0)
    run("rates", **given)
    assert (folder / "rates.svg").read_text().startswith("<svg")
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    run("adapters", **given)
    assert (folder / "adapter.safetensors").is_file()
    assert not any(layer.lora_enabled for layer in body.layers)
    assert not np.allclose(model.predict(x, verbose=0), before)


def test_a_space_to_tune_in() -> None:
    config = FineTuneConfig()
    run("space", config=config)
    space = read_space(config)
    assert isinstance(space["fit.learning_rate"], Range)
    assert space["model.pooling"] == ("mean", "backbone")


@pytest.mark.real
def test_exports_on_other_runtimes(preset: Path, folder: Path) -> None:
    for package in ("onnx", "tf2onnx", "onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package)
    from tests.exports.conftest import TEXTS, make_task
    from tf_finetune.exports.every_format import export_all

    task = make_task()
    export_all(task, folder / "runs/mine/export", (TEXTS,), ["onnx", "litert"])
    expected = task.predict(["A warm, funny and quietly moving film."])
    given = run("onnx")
    np.testing.assert_allclose(given["shares"], expected, atol=1e-5)
    given = run("litert", **given)
    np.testing.assert_allclose(given["shares"], expected, atol=1e-5)


def test_pictures_on_litert(folder: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from tf_finetune.exports.every_format import export_all
    from tf_finetune.results.proofs import picture_examples

    task, pixels = tiny_image_task(size=(224, 224)), np.asarray(picture(0, 0, (224, 224)))[None]
    rows = {"train": np.arange(1), "test": np.arange(1)}
    examples = picture_examples(
        task.kind,
        lambda chosen: pixels[chosen],
        pa.chunked_array([["a.jpg"]]),
        rows,
        np.zeros(1, int),
        task.predict(pixels),
    )
    export_all(task, folder / "runs/birds/export", examples, ["litert_int8"])
    picture(0, 0, (224, 224)).save("a.jpg")
    given = run("litert of pictures")
    np.testing.assert_allclose(given["shares"], task.predict(["a.jpg"]), atol=0.05)
