"""Tags of words in real reviews with the packaged MiniLM, each command a process."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.test_end_to_end import ROOT, tf_finetune
from tf_finetune.exports.load import load_model

pytestmark = pytest.mark.real

TEXT = "It was directed by Ingmar Bergman in 1957, and I give it 9/10."
# TensorFlow alone serves it.
SERVE = """
import json, sys
import tensorflow as tf
import tensorflow_text
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
found = served(text=tf.constant([sys.argv[2]]))
assert not {"keras_hub", "tf_finetune"} & set(sys.modules)
text = sys.argv[2].encode()
places = zip(found["starts"].numpy()[0], found["ends"].numpy()[0])
words = [text[a:b].decode() for a, b in places]
assert words == [word.decode() for word in found["words"].numpy()[0]]
print(json.dumps([words, [tag.decode() for tag in found["tags"].numpy()[0]]]))
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagged")
    file = folder / "reviews.conll"
    command = [sys.executable, "examples/write_tagged_reviews.py", str(file), "--reviews=100"]
    subprocess.run(command, cwd=ROOT, check=True)
    said = tf_finetune(
        "--config=configs/tagged_reviews.py",
        f"--workdir={folder / 'run'}",
        f"--config.data.path={file}",
        "--config.data.min_per_class=1",
        "--config.data.validation=0.1",
        "--config.data.test=0.2",
        "--config.fit.probe_epochs=4",
        "--config.fit.train=last:2",
        "--config.fit.epochs=4",
        "--config.fit.learning_rate=5e-4",
        "--config.fit.eval_batch=32",
    )
    for phase in ("probe", "tune"):
        assert f"phase {phase}: trains on kept activations" in said
    return folder / "run"


def test_real_tags_are_learnt_and_served(workdir):
    card = json.loads((workdir / "metrics.json").read_text())
    test = card["test"]
    # Most names of the test rows are new, and MiniLM sees no capital letters.
    assert test["f1"] > card["baselines"]["word_tags"]["f1"]
    assert test["f1"] > card["baselines"]["probe"]["f1"] + 0.2
    assert card["gain_over_probe"]["figure"] == "f1"
    assert card["export"]["max_difference"] < 1e-5
    model = load_model(workdir)
    (found,) = model.predict([TEXT])
    assert [TEXT[s.start : s.end] for s in found.spans] == [s.text for s in found.spans]
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(workdir / "export/saved_model/1"), TEXT],
        check=True,
        capture_output=True,
        text=True,
    )
    words, tags = json.loads(done.stdout)
    assert (words, tags) == (found.words, found.tags)
    (again,) = load_model(workdir / "export").predict([TEXT])
    np.testing.assert_allclose(again.probabilities, found.probabilities, atol=1e-5)


def test_the_command_line_names_what_it_found(workdir):
    said = tf_finetune("--mode=predict", f"--workdir={workdir}", TEXT)
    (found,) = load_model(workdir).predict([TEXT])
    for span in found.spans:
        assert f"{span.text} ({span.type} " in said
