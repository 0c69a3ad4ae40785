"""The command line on the packaged EfficientNet-Lite0 and scikit-learn's digits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tf_finetune.exports.load import load_model

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent
SETTINGS = (
    "--config=configs/digits.py",
    "--config.data.limit=300",
    "--config.model.image_size=32",
    "--config.fit.epochs=2",
    "--config.fit.probe_epochs=20",
    "--config.results.formats=saved_model,litert,litert_int8",
)
SERVE = """
import json, sys
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
content = tf.stack([tf.io.read_file(path) for path in sys.argv[2:]])
found = served(image_bytes=content)
assert not {"keras_hub", "tf_finetune"} & set(sys.modules)
print(json.dumps([found["probabilities"].numpy().tolist(),
                  [name.decode() for name in found["label"].numpy()]]))
"""


def python(*arguments):
    """What a process that must succeed says."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_a_folder_of_pictures_to_a_model_that_serves_them(tmp_path):
    folder, run = tmp_path / "digits", tmp_path / "run"
    python("examples/write_pictures.py", "digits", folder)
    train = ("-m", "tf_finetune.main", *SETTINGS, f"--config.data.path={folder}")
    python(*train, f"--workdir={run}")
    card = json.loads((run / "metrics.json").read_text())
    assert card["test"]["accuracy"] >= 0.7
    assert card["test"]["accuracy"] > card["baselines"]["probe"]["accuracy"]
    tune = card["phases"][-1]
    assert tune["audit"]["frozen_unchanged"] == 49 * 4  # of each batch normalisation
    assert card["export"]["max_difference"] <= 1e-5
    served = card["exports"]["saved_model"]["facts"]
    assert served["figure"] == "accuracy"
    assert served["value"] == pytest.approx(card["test"]["accuracy"], abs=0.01)
    wide, narrow = (card["exports"][name] for name in ("litert", "litert_int8"))
    assert wide["max_difference"] <= 1e-4
    assert wide["facts"]["value"] == pytest.approx(card["test"]["accuracy"])
    assert narrow["bytes"] <= 0.3 * wide["bytes"]
    assert narrow["facts"]["integers_alone"]
    assert narrow["facts"]["value"] >= card["test"]["accuracy"] - 0.03
    assert "nothing to do" in python(*train, f"--workdir={run}")

    paths = sorted(folder.rglob("*.png"))[::300]
    lines = python("-m", "tf_finetune.main", "--mode=predict", f"--workdir={run}", *paths)
    assert len(lines.splitlines()) == len(paths)
    expected = load_model(run).predict(paths)
    shares, labels = json.loads(python("-c", SERVE, card["export"]["path"], *paths))
    np.testing.assert_allclose(shares, expected, atol=0.01)  # resized by TensorFlow here
    assert [line.split()[0] for line in lines.splitlines()] == labels
