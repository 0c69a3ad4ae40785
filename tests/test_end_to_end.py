"""The command line on the packaged MiniLM and real reviews, each command a process."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tf_finetune.exports.load import load_model

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent
SETTINGS = (
    "--config=configs/reviews.py",
    "--config.data.limit=128",
    "--config.data.validation=0.05",
    "--config.data.test=0.05",
    "--config.fit.epochs=1",
    "--config.fit.probe_epochs=5",
)
SENTENCES = [
    "A warm, funny and quietly moving film.",
    "Two hours of my life that I will never get back.",
    "Ein schöner Film, très émouvant 👍",
]
SERVE = """
import json, sys
import tensorflow as tf
import tensorflow_text
texts = tf.constant(json.loads(sys.argv[1]))
assert not {"keras_hub", "tf_finetune"} & set(sys.modules)
for place in sys.argv[2:]:
    found = tf.saved_model.load(place).signatures["serving_default"](text=texts)
    labels = [name.decode() for name in found["label"].numpy()]
    print(json.dumps([found["probabilities"].numpy().tolist(), labels]))
"""


def tf_finetune(*arguments):
    """What a command that must succeed says; it must say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "tf_finetune.main", *map(str, arguments)],
        cwd=ROOT,
        # As a user's: the tests' own settings silence TensorFlow too.
        env={name: value for name, value in os.environ.items() if not name.startswith("TF_CPP")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reviews") / "run"
    tf_finetune(*SETTINGS, f"--workdir={folder}")
    return folder


@pytest.fixture(scope="module")
def shares(workdir):
    """The model's own probabilities of the sentences."""
    return load_model(workdir).predict(SENTENCES)


@pytest.fixture
def reviews(tmp_path):
    file = tmp_path / "reviews.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        rows = zip(SENTENCES, ("1", "0", "1"), strict=True)
        csv.writer(opened).writerows([("text", "label"), *rows])
    return file


def test_a_few_rows_teach_more_than_the_majority(workdir):
    card = json.loads((workdir / "metrics.json").read_text())
    test, baselines = card["test"], card["baselines"]
    assert test["accuracy_interval"][0] > baselines["majority"]["accuracy"]
    assert test["rows"] > 400
    assert card["export"]["max_difference"] <= 1e-5
    assert [phase["name"] for phase in card["phases"]] == ["probe", "tune"]
    assert card["phases"][1]["trainable"] == card["phases"][1]["total"] > 22e6
    assert card["command"].startswith("tf-finetune --config=configs/reviews.py")


def test_a_tuned_model_in_every_other_format(workdir, shares, tmp_path):
    for package in ("ai_edge_litert", "onnx", "tf2onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    # A head that has learnt nothing gives all texts the same, and hides every difference.
    assert np.ptp(shares[:, 0]) > 0.1
    formats = ("litert", "onnx", "keras_hub")
    said = tf_finetune(
        "--mode=export",
        f"--workdir={workdir}",
        f"--output={tmp_path}",
        f"--config.results.formats={','.join(formats)}",
    )
    for line, name in zip(said.splitlines(), formats, strict=True):
        assert line.startswith(f"exported to {tmp_path / name} (")
        assert " on 75 texts in a fresh process, " in line
        assert 85e6 < sum(file.stat().st_size for file in (tmp_path / name).rglob("*")) < 110e6


def test_hugging_face_has_the_tuned_models_logits(tmp_path):
    options = ("--config.model.pooling=backbone", "--config.results.formats=hugging_face")
    tf_finetune(*SETTINGS, *options, "--config.phases=probe", f"--workdir={tmp_path / 'run'}")
    (found,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["exports"].values()
    assert found["max_difference"] <= 1e-4
    assert (found["texts"], found["facts"]) == (75, {"other_tokens": 0})


def test_plan_foretells_the_run(workdir):
    said = tf_finetune("--mode=plan", *SETTINGS)
    card = json.loads((workdir / "metrics.json").read_text())
    for phase in card["phases"]:
        (row,) = re.findall(rf"^{phase['name']} +([\d,]+) +([\d,]+) +([\d,]+) ", said, re.MULTILINE)
        trainable, frozen, updates = (int(number.replace(",", "")) for number in row)
        assert (trainable, trainable + frozen) == (phase["trainable"], phase["total"])
        assert updates == 4 * len(phase["history"])
    (megabytes,) = re.findall(r"disk up to ([\d,.]+) MB", said)
    # So short a run has one checkpoint of all its weights, where two are kept beside a new one.
    files = {path.stat().st_ino: path.stat().st_size for path in workdir.rglob("*")}
    foretold = float(megabytes.replace(",", "")) * 1e6
    assert 0.3 * foretold < sum(files.values()) < 1.1 * foretold


def test_predict_sentences(workdir, shares):
    lines = tf_finetune("--mode=predict", f"--workdir={workdir}", *SENTENCES).splitlines()
    assert [line.split("  ")[-1] for line in lines] == SENTENCES
    names = load_model(workdir).class_names
    for line, row in zip(lines, shares, strict=True):
        assert line.split()[:2] == [names[row.argmax()], f"{row.max():.1%}"]


def test_predict_a_file(workdir, shares, reviews, tmp_path):
    output = tmp_path / "predictions.csv"
    said = tf_finetune(
        "--mode=predict", f"--workdir={workdir}", f"--input={reviews}", f"--output={output}"
    )
    assert said == f"3 predictions written to {output}\n"
    with output.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    names = load_model(workdir).class_names
    found = [[float(row[f"probability_{name}"]) for name in names] for row in rows]
    np.testing.assert_allclose(found, shares, atol=1e-5)


def test_evaluate_a_file(workdir, shares, reviews):
    said = tf_finetune("--mode=evaluate", f"--workdir={workdir}", f"--input={reviews}")
    names = load_model(workdir).class_names
    right = [names[row.argmax()] == label for row, label in zip(shares, "101", strict=True)]
    assert json.loads(said[said.index("\n{") :])["accuracy"] == pytest.approx(np.mean(right))


def test_export_serves_where_only_tensorflow_is(workdir, shares, tmp_path):
    said = tf_finetune("--mode=export", f"--workdir={workdir}", f"--output={tmp_path / 'new'}")
    assert said.startswith(f"exported to {tmp_path / 'new' / 'saved_model' / '1'}")
    places = [folder / "saved_model" / "1" for folder in (workdir / "export", tmp_path / "new")]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, json.dumps(SENTENCES), *places],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    names = load_model(workdir).class_names
    assert len(done.stdout.splitlines()) == 2
    for line in done.stdout.splitlines():
        served, labels = json.loads(line)
        np.testing.assert_allclose(served, shares, atol=1e-5)
        assert labels == [names[row.argmax()] for row in shares]
