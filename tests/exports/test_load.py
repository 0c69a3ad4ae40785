import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.exports.conftest import TEXTS, make_task
from tf_finetune.errors import UserError
from tf_finetune.exports import folder as export_folder
from tf_finetune.exports.load import load_model
from tf_finetune.exports.served import ExportedModel


@pytest.fixture(scope="module")
def workdir(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    task.save(folder / "model.keras")
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """A version folder that a test may damage."""
    return shutil.copytree(exported[1].path, tmp_path / "saved_model" / "1")


def remark(version, **changes):
    marker = export_folder.read_marker(version) | changes
    (version / "assets.extra" / "tf_finetune.json").write_text(json.dumps(marker))


@pytest.mark.parametrize("name", ["", "model.keras"])
def test_a_run_folder_gives_the_keras_model(workdir, task, name):
    model = load_model(workdir / name)
    np.testing.assert_allclose(model.predict(TEXTS), task.predict(TEXTS), atol=1e-6)
    assert (model.class_names, model.kind) == (task.class_names, task.kind)


@pytest.mark.parametrize("inside", ["", "saved_model", "saved_model/1"])
def test_an_export_predicts_as_the_model_in_the_given_order(exported, task, inside):
    model = load_model(exported[0] / inside)
    texts = [*TEXTS * 20, "", "great " * 100]
    found = model.predict(texts, batch_size=7)
    assert (found.dtype, found.shape) == (np.float32, (102, 3))
    np.testing.assert_allclose(found, task.predict(texts), atol=1e-5)
    assert (model.class_names, model.kind) == (task.class_names, task.kind)


def test_a_run_folder_with_an_export_alone_still_loads(exported):
    assert isinstance(load_model(exported[0].parent), ExportedModel)


def test_no_texts_give_no_rows(exported):
    assert load_model(exported[0]).predict([]).shape == (0, 3)


def test_an_export_needs_neither_keras_hub_nor_the_models_code(exported):
    code = f"""
import sys
sys.modules["keras_hub"] = None
from tf_finetune.exports.load import load_model
assert load_model({str(exported[0])!r}).predict(["good"]).shape == (1, 3)
assert "tf_finetune.model.task" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("x", ["one string", (["a"], ["b"])])
def test_input_of_the_wrong_form_is_refused(exported, x):
    with pytest.raises(UserError, match="takes a list of strings"):
        load_model(exported[0]).predict(x)


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.data-00000-of-00001"])
def test_a_damaged_export_is_refused(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="is damaged"):
        load_model(copy)


def test_an_export_of_a_newer_format_is_refused(copy):
    remark(copy, format=export_folder.FORMAT + 1)
    with pytest.raises(UserError, match="newer tf_finetune"):
        load_model(copy)


def test_anothers_saved_model_is_refused(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(UserError, match="tf_finetune did not write"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no zip file", None])
def test_a_truncated_keras_file_is_refused(workdir, tmp_path, content):
    content = (workdir / "model.keras").read_bytes()[:-500] if content is None else content
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.keras\" cannot be read as a Keras model: \S"):
        load_model(tmp_path)


def test_anothers_keras_model_is_refused(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "model.keras")
    with pytest.raises(UserError, match="holds a Sequential, not a model that tf_finetune saved"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (None, "the folder is not there"),
        ([], "the folder has none of them"),
        (["config.json"], "is a run that has not finished"),
    ],
)
def test_a_folder_without_a_model_says_what_was_looked_for(tmp_path, files, reason):
    folder = tmp_path / "runs"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_text("{}")
    with pytest.raises(UserError, match=rf"model\.keras and for saved_model/1.*{reason}"):
        load_model(folder)


def test_regression_gives_one_column(tmp_path, monkeypatch):
    from tf_finetune.exports import saved_model as module

    def same(path, columns, result):
        return task.predict(columns[0]), 1.0

    task = make_task("regression", ("value",))
    monkeypatch.setattr(module, "_run_elsewhere", same)
    module.export(task, tmp_path, [TEXTS])
    np.testing.assert_allclose(load_model(tmp_path).predict(TEXTS), task.predict(TEXTS), atol=1e-5)
