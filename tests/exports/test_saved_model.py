import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tests.exports.conftest import TEXTS, make_task
from tf_finetune.checkpoints.lock import locked
from tf_finetune.data.text import encode
from tf_finetune.errors import ExportError, UserError
from tf_finetune.exports import folder as export_folder
from tf_finetune.exports import saved_model as module
from tf_finetune.exports.parity import HARD_TEXTS
from tf_finetune.exports.saved_model import export
from tf_finetune.model.task import TextTask


@pytest.fixture
def without_child(monkeypatch):
    """Compares in this process; the fresh one has a test of its own."""

    def run_here(path, columns, result):
        serve = tf.saved_model.load(str(path)).signatures["serving_default"]
        inputs = dict(zip(("text", "text_pair"), map(tf.constant, columns), strict=False))
        return serve(**inputs)[result].numpy(), 1.0

    monkeypatch.setattr(module, "_run_elsewhere", run_here)


@pytest.fixture
def quick(monkeypatch):
    """Exports that write one file and find no difference, or the given one."""

    def use(content, difference=0.0):
        def run(path, columns, result):
            return make_outputs(len(columns[0])) + difference * (np.arange(3) == 1), 1.0

        monkeypatch.setattr(module, "_write", lambda model, path, inputs: write_file(path, content))
        monkeypatch.setattr(module, "_run_elsewhere", run)

    return use


def write_file(path, content="x"):
    path.mkdir()
    (path / "saved_model.pb").write_text(content)


def make_outputs(count):
    return np.full((count, 3), 1 / 3)


@pytest.fixture
def model(task, monkeypatch):
    monkeypatch.setattr(task, "predict", lambda texts: make_outputs(len(texts)))
    return task


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_fresh_process_with_tensorflow_alone_gives_the_models_outputs(exported, task):
    folder, info = exported
    assert info.path == folder / "saved_model" / "1"
    assert info.texts == len(TEXTS) + len(HARD_TEXTS)
    assert info.max_difference <= 1e-5
    assert info.milliseconds > 0
    # The comparison would mean nothing if all texts scored alike.
    assert np.ptp(task.predict([*TEXTS, *HARD_TEXTS])[:, 0]) > 0.5


def test_the_signature_takes_strings_and_gives_names_and_probabilities(exported, task):
    serve = tf.saved_model.load(str(exported[1].path)).signatures["serving_default"]
    assert list(serve.structured_input_signature[1]) == ["text"]
    given = serve(text=tf.constant(TEXTS))
    assert set(given) == {"probabilities", "class_names", "label"}
    expected = task.predict(TEXTS)
    np.testing.assert_allclose(given["probabilities"], expected, atol=1e-5)
    assert given["probabilities"].dtype == tf.float32
    assert given["class_names"].numpy().tolist() == [[b"bad", b"good", b"fair"]] * len(TEXTS)
    names = np.array(task.class_names)[expected.argmax(axis=1)]
    assert given["label"].numpy().astype(str).tolist() == names.tolist()


def test_a_zero_byte_hides_nothing_behind_it(exported):
    serve = tf.saved_model.load(str(exported[1].path)).signatures["serving_default"]
    given = serve(text=tf.constant(["good\x00 film, not bad", "good film, not bad", "good"]))
    first, second, third = given["probabilities"].numpy()
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert np.abs(first - third).max() > 0.01


def test_an_empty_batch_gives_empty_outputs(exported):
    serve = tf.saved_model.load(str(exported[1].path)).signatures["serving_default"]
    given = serve(text=tf.constant([], tf.string))
    assert given["probabilities"].shape == (0, 3)
    assert given["label"].shape == (0,)


def test_every_weight_is_stored_once(exported):
    variables = tf.train.list_variables(str(exported[1].path / "variables" / "variables"))
    stored = sum(int(np.prod(shape)) * 4 for name, shape in variables if "OBJECT" not in name)
    assert stored <= 1.1 * exported[1].weights_bytes


def test_pairs_have_two_inputs(tmp_path, without_child):
    task = make_task()
    info = export(task, tmp_path, [TEXTS, TEXTS[::-1]])
    serve = tf.saved_model.load(str(info.path)).signatures["serving_default"]
    given = serve(text=tf.constant(TEXTS), text_pair=tf.constant(TEXTS[::-1]))
    expected = task.predict((TEXTS, TEXTS[::-1]))
    np.testing.assert_allclose(given["probabilities"], expected, atol=1e-5)
    assert np.abs(expected - task.predict(TEXTS)).max() > 0.01


@pytest.mark.parametrize(
    ("kind", "names", "outputs"),
    [
        ("regression", ("value",), {"value": (5,)}),
        ("multi_label", ("a", "b"), {"probabilities": (5, 2), "class_names": (5, 2)}),
    ],
)
def test_outputs_of_the_other_tasks(tmp_path, without_child, kind, names, outputs):
    info = export(make_task(kind, names), tmp_path, [TEXTS])
    given = tf.saved_model.load(str(info.path)).signatures["serving_default"](text=TEXTS)
    assert {name: tuple(value.shape) for name, value in given.items()} == outputs


@pytest.mark.parametrize("difference", [2e-5, np.nan])
def test_a_difference_fails_and_leaves_the_former_export(tmp_path, model, quick, difference):
    quick("former")
    former = files(export(model, tmp_path, [TEXTS]).path)
    quick("other", difference)
    with pytest.raises(ExportError, match=rf"differs from the model by {difference}.*on the text"):
        export(model, tmp_path, [TEXTS])
    assert files(tmp_path / "saved_model" / "1") == former
    assert os.listdir(tmp_path / "saved_model") == ["1"]


def test_a_difference_on_a_first_export_leaves_nothing(tmp_path, model, quick):
    quick("wrong", 2e-5)
    with pytest.raises(ExportError):
        export(model, tmp_path, [TEXTS])
    assert os.listdir(tmp_path / "saved_model") == []


def test_a_large_value_is_compared_by_its_share(tmp_path, model, monkeypatch):
    monkeypatch.setattr(model, "predict", lambda texts: 1e6 + make_outputs(len(texts)))
    found = 1e6 + 1 + make_outputs(len(TEXTS) + len(HARD_TEXTS))
    monkeypatch.setattr(module, "_run_elsewhere", lambda *_: (found, 1.0))
    monkeypatch.setattr(module, "_write", lambda model, path, inputs: write_file(path))
    assert export(model, tmp_path, [TEXTS]).max_difference == pytest.approx(1e-6)


def test_a_child_that_cannot_run_fails_with_its_words(tmp_path, model, quick, monkeypatch):
    run = module._run_elsewhere
    quick("x")
    monkeypatch.setattr(module, "_run_elsewhere", run)
    monkeypatch.setattr(module, "_CHILD", "raise SystemExit('Op type not registered')")
    with pytest.raises(ExportError, match="Op type not registered"):
        export(model, tmp_path, [TEXTS])
    assert os.listdir(tmp_path / "saved_model") == []


def test_the_child_imports_only_tensorflow_and_its_text_operations():
    imported = [line for line in module._CHILD.splitlines() if "import" in line]
    assert imported == ["import sys, time", "import tensorflow as tf", "import tensorflow_text"]


def test_a_former_export_of_ours_is_replaced(tmp_path, model, quick):
    quick("first")
    export(model, tmp_path, [TEXTS])
    quick("second")
    info = export(model, tmp_path, [TEXTS])
    assert (info.path / "saved_model.pb").read_text() == "second"
    assert os.listdir(tmp_path / "saved_model") == ["1"]


@pytest.mark.parametrize(
    "strange", ["saved_model/1/saved_model.pb", "saved_model/2/saved_model.pb", "saved_model/x.txt"]
)
def test_a_folder_that_is_not_ours_is_left_alone(tmp_path, task, strange):
    (tmp_path / strange).parent.mkdir(parents=True)
    (tmp_path / strange).write_text("another's")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"saved_model\".*tf_finetune did not write.*--workdir"):
        export(task, tmp_path, [TEXTS])
    assert files(tmp_path) == before


def test_a_file_in_the_folders_place_is_named(tmp_path):
    (tmp_path / "export").write_text("mine")
    with pytest.raises(UserError, match=r"export\" is a file"):
        export_folder.check_folder(tmp_path / "export")


def test_the_marker_says_what_the_export_is(exported, task):
    marker = export_folder.read_marker(exported[1].path)
    assert marker["format"] == export_folder.FORMAT
    assert (marker["kind"], marker["inputs"]) == ("classification", ["text"])
    assert marker["class_names"] == list(task.class_names)
    assert marker["digest"] == export_folder.digest(exported[1].path)
    json.dumps(marker)


def test_a_disk_too_small_is_seen_before_writing(tmp_path, task, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(export_folder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"saved_model\" is full: 1,000 bytes are free"):
        export(task, tmp_path, [TEXTS])
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(
            None, None, "x.data-00000-of-00001; No space left on device"
        ),
    ],
)
def test_a_disk_that_fills_while_writing_leaves_nothing(tmp_path, task, monkeypatch, error):
    def fill(model, path, inputs):
        path.mkdir()
        (path / "half").write_text("half")
        raise error

    monkeypatch.setattr(module, "_write", fill)
    with pytest.raises(UserError, match=r"is full: [\d,]+ bytes are free and about [\d,]+ are"):
        export(task, tmp_path, [TEXTS])
    assert os.listdir(tmp_path / "saved_model") == []


def test_a_kill_while_writing_leaves_the_former_export(tmp_path):
    code = """
import os, sys
from tf_finetune.exports.folder import mark, placing
def write(text):
    with placing(sys.argv[1], 1) as path:
        path.mkdir()
        (path / "saved_model.pb").write_text(text)
        if text == "second":
            os.kill(os.getpid(), 9)
        mark(path, kind=text)
write("first")
write("second")
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -9
    version = tmp_path / "saved_model" / "1"
    assert (version / "saved_model.pb").read_text() == "first"
    assert export_folder.read_marker(version)["digest"] == export_folder.digest(version)
    export_folder.check_folder(tmp_path)


def test_a_kill_between_the_two_renames_is_mended_by_the_next_export(tmp_path):
    parent = tmp_path / "saved_model"
    (parent / ".1.replaced").mkdir(parents=True)
    (parent / ".1.replaced" / "saved_model.pb").write_text("former")
    (parent / ".1.unfinished").mkdir()
    with pytest.raises(RuntimeError, match="stop"), export_folder.placing(tmp_path, 1):
        raise RuntimeError("stop")
    assert files(parent) == {"1/saved_model.pb": b"former"}


def test_tokens_of_padding_that_are_typed_are_seen_alike(without_child, tmp_path):
    """A byte-pair tokenizer takes them for its own, and they would make a hole in the mask."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    names = ["<s>", "<pad>", "</s>", "<unk>", *letters, "qz", "<mask>"]
    vocabulary = {name: i for i, name in enumerate(names)}
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.RobertaBackbone(
        vocabulary_size=len(names),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=8,
        max_sequence_length=32,
    )
    tokenizer = keras_hub.models.RobertaTokenizer(vocabulary=vocabulary, merges=["q z"])
    preprocessor = keras_hub.models.RobertaTextClassifierPreprocessor(tokenizer, sequence_length=32)
    task = TextTask(backbone, preprocessor, "classification", ["a", "b", "c"])
    generator = np.random.default_rng(0)
    task.head.set_weights([generator.normal(size=w.shape) for w in task.head.get_weights()])
    texts = ["use <pad> here", "use here", "<pad>", "at its end <pad>"]
    rows = encode(preprocessor, texts)
    assert [int((row["token_ids"] == 1).sum()) for row in rows] == [1, 0, 1, 1]
    info = export(task, tmp_path, [texts])
    assert info.max_difference <= 1e-5
    assert np.ptp(task.predict(texts)[:, 0]) > 1e-3


def test_two_exports_at_a_time_are_refused(quick, model, tmp_path):
    quick("first")
    export(model, tmp_path, [["a"]])
    before = files(tmp_path)
    held = r"is in use: process \d+ on .* works in it"
    with locked(tmp_path), pytest.raises(UserError, match=held):
        export(model, tmp_path, [["a"]])
    assert files(tmp_path) == before


def test_a_full_disk_of_temporary_files_is_told_of_itself(
    quick, model, tmp_path, tmp_path_factory, monkeypatch
):
    quick("first")
    export(model, tmp_path, [["a"]])
    before = files(tmp_path)

    def full(*_):
        name = os.path.join(tempfile.gettempdir(), "texts")
        raise OSError(errno.ENOSPC, "No space left on device", name)

    monkeypatch.setattr(module, "_run_elsewhere", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("scratch")))
    with pytest.raises(ExportError, match=r"for temporary files, is full: .* set TMPDIR"):
        export(model, tmp_path, [["a"]])
    assert files(tmp_path) == before
