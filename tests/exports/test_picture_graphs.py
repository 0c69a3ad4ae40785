"""LiteRT and ONNX files of models of pictures, each on its own runtime."""

import dataclasses
import importlib.util

import numpy as np
import pyarrow as pa
import pytest

from tests.pictures import arrays_of_pictures
from tests.tiny_pictures import tiny_image_task
from tf_finetune.errors import ExportError, UserError
from tf_finetune.exports import every_format, picture_graphs
from tf_finetune.exports.folder import read_marker
from tf_finetune.results.proofs import picture_examples

PIXELS, LABELS = arrays_of_pictures(2, 40, (32, 32))
NAMES = ("circle", "square")


def installed(name):
    missing = [m for m in every_format._EXTRAS[name] if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def shaken(kind="classification", names=NAMES, **options):
    """A task whose outputs differ from picture to picture."""
    task, random = tiny_image_task(kind, names, **options), np.random.default_rng(1)
    for variable in task.head.trainable_variables:
        variable.assign(random.normal(0, 2.0, variable.shape))
    if kind == "classification":
        bias = task.head.trainable_variables[1]
        bias.assign(bias - np.asarray(task.network(PIXELS)).mean(axis=0))
    return task


def examples_of(task, labels=LABELS, test=range(16)):
    test = np.array(test, int)
    outputs = task.predict(PIXELS)[test]
    splits = {"train": np.arange(16, 80), "test": test}
    files = pa.chunked_array([[""] * len(PIXELS)])
    return picture_examples(
        task.kind, lambda rows: PIXELS[rows], files, splits, labels[test], outputs
    )


@pytest.fixture(scope="module")
def task():
    return shaken()


def exported(task, folder, name, examples):
    (info,) = every_format.export_all(task, folder, examples, [name]).values()
    return info


def check(info, task, examples):
    accuracy = np.mean(examples.outputs.argmax(axis=1) == LABELS[:16])
    assert info.facts["figure"] == "accuracy"
    assert info.facts["model"] == pytest.approx(accuracy)
    assert info.texts == 16
    marker = read_marker(info.path)
    assert (marker["inputs"], marker["class_names"]) == (["pixels"], list(NAMES))
    assert (marker["size"], marker["how"]) == ([32, 32], "crop")


@installed("litert")
def test_litert_in_three_widths(task, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    examples, sizes = examples_of(task), {}
    assert np.ptp(examples.outputs[:, 0]) > 0.1
    for name, difference in (("litert", 1e-5), ("litert_dynamic", 0.05), ("litert_int8", 0.1)):
        info = exported(task, tmp_path, name, examples)
        check(info, task, examples)
        assert info.max_difference <= difference
        sizes[name] = info.bytes
        interpreter = Interpreter(str(info.path / "model.tflite"))
        run = interpreter.get_signature_runner("serving_default")
        (given,) = run.get_input_details().values()
        assert given["dtype"] == np.uint8
        operations = {one["op_name"] for one in interpreter._get_ops_details()}
        # Without a step in float32 from pixels on.
        assert ("CAST" in operations) == (name != "litert_int8")
        found = run(pixels=PIXELS[:5])["probabilities"]  # any number of pictures
        np.testing.assert_allclose(found, task.predict(PIXELS[:5]), atol=difference)
        assert info.facts.get("integers_alone", True)
    assert sizes["litert_dynamic"] < sizes["litert_int8"] + 2000 < 0.6 * sizes["litert"]


@installed("onnx")
def test_onnx(task, tmp_path):
    import onnxruntime

    examples = examples_of(task)
    info = exported(task, tmp_path, "onnx", examples)
    check(info, task, examples)
    assert info.max_difference <= 1e-5
    assert info.facts["value"] == info.facts["model"]
    run = onnxruntime.InferenceSession(str(info.path / "model.onnx"))
    (found,) = run.run(["probabilities"], {"pixels": PIXELS[:5]})
    np.testing.assert_allclose(found, task.predict(PIXELS[:5]), atol=1e-5)


@installed("litert")
def test_values_of_a_regression_and_pictures_that_are_gone(tmp_path):
    task = shaken("regression", ("stars",), target_mean=100.0, target_std=10.0)
    labels = 100.0 + np.arange(80)
    info = exported(task, tmp_path, "litert_int8", examples_of(task, labels))
    errors = np.abs(task.predict(PIXELS[:16])[:, 0] - labels[:16])
    assert info.facts["figure"] == "mae"
    assert info.facts["model"] == pytest.approx(errors.mean(), rel=1e-4)
    gone = dataclasses.replace(examples_of(task, labels, []), train=np.arange(0))
    info = exported(task, tmp_path, "litert", gone)
    assert info.texts == 16
    assert "figure" not in info.facts
    with pytest.raises(UserError, match="calibrated on training pictures, but the run's data are"):
        exported(task, tmp_path, "litert_int8", gone)
    assert (tmp_path / "litert_int8" / "model.tflite").exists()  # the former one


def test_what_is_calibrated_by():
    examples = dataclasses.replace(examples_of(shaken()), train=np.arange(80))
    found = picture_graphs._calibrating(examples)
    assert found.shape == PIXELS.shape
    assert (found.min(), found.max()) == (0, 255)
    assert np.sum(found != PIXELS) <= 2
    many = dataclasses.replace(
        examples, train=np.arange(1000), pixels=lambda rows: np.tile(rows[:, None, None, None], 3)
    )
    rows = picture_graphs._calibrating(many)[:, 0, 0, 2]
    assert len(rows) == picture_graphs.CALIBRATED_BY
    assert (rows[0], rows[-1]) == (0, 999)


def test_outputs_that_are_no_numbers_are_not_exported(task, tmp_path, monkeypatch):
    form = picture_graphs.FORMS["litert_int8"]
    code = 'open(sys.argv[2] + "/model.tflite", "w").close()'
    form = dataclasses.replace(
        form, convert=f"import sys\n{code}", run="run = lambda x: [np.nan]*2"
    )
    monkeypatch.setitem(picture_graphs.FORMS, "litert_int8", form)
    with pytest.raises(ExportError, match=r"int8 differs from the model by nan .* on the picture"):
        exported(task, tmp_path, "litert_int8", examples_of(task))
    assert not list(tmp_path.iterdir())


def test_a_process_that_fails_is_told_of(task, tmp_path, monkeypatch):
    form = dataclasses.replace(picture_graphs.FORMS["litert"], convert="1 / 0")
    monkeypatch.setitem(picture_graphs.FORMS, "litert", form)
    with pytest.raises(ExportError, match=r"does not run in a fresh(.|\n)*ZeroDivisionError"):
        exported(task, tmp_path, "litert", examples_of(task))
    form = dataclasses.replace(form, convert="", run="1 / 0")
    monkeypatch.setitem(picture_graphs.FORMS, "litert", form)
    with pytest.raises(ExportError, match=r"does not run in a fresh(.|\n)*ZeroDivisionError"):
        exported(task, tmp_path, "litert", examples_of(task))


@pytest.mark.parametrize("name", ["keras_hub", "hugging_face"])
def test_formats_of_texts_are_refused(task, name):
    with pytest.raises(UserError, match=rf'"{name}", which is for models of texts; .*litert_int8'):
        every_format.check_model(task, [name])
