"""Exports beside the SavedModel: each on its own runtime, and what is refused."""

import importlib.util
import json

import keras_hub
import numpy as np
import pytest
from tokenizers import Tokenizer

from tests import runs
from tests.exports.conftest import TEXTS, make_task
from tf_finetune.data.text import encode, pad
from tf_finetune.errors import ExportError, UserError
from tf_finetune.exports import every_format
from tf_finetune.exports import folder as export_folder
from tf_finetune.exports.load import load_model
from tf_finetune.exports.numpy_bert import Classifier
from tf_finetune.exports.parity import HARD_TEXTS
from tf_finetune.model import backbones
from tf_finetune.model.task import TextTask
from tf_finetune.model.wordpiece import FaithfulDistilBertTokenizer
from tf_finetune.train import fine_tune

NAMES = ("bad", "good", "fair")


def shaken(task, seed=0):
    """Weights so large that its outputs differ from text to text."""
    random = np.random.default_rng(seed)
    for variable in task.trainable_variables:
        variable.assign(
            random.normal(1.0 if "gamma" in variable.path else 0.0, 0.4, variable.shape)
        )
    return task


@pytest.fixture(scope="module")
def task():
    """As a Hugging Face BERT: exact GELU and its own pooler; calibrated, as runs are."""
    base = make_task()
    made = TextTask(
        base.backbone, base.preprocessor, "classification", NAMES, "backbone", exact_gelu=True
    )
    made.calibrate(1.7)
    return shaken(made)


def distil(kind, names, **options):
    vocabulary = make_task().preprocessor.tokenizer.get_vocabulary()
    tokenizer = FaithfulDistilBertTokenizer(vocabulary, lowercase=True, strip_accents=True)
    backbone = keras_hub.models.DistilBertBackbone(
        vocabulary_size=len(vocabulary),
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=48,
    )
    preprocessor = keras_hub.models.DistilBertTextClassifierPreprocessor(
        tokenizer, sequence_length=48
    )
    return shaken(TextTask(backbone, preprocessor, kind, names, "first", **options))


def installed(name):
    missing = [m for m in every_format._EXTRAS[name] if importlib.util.find_spec(m) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def exported(task, folder, name, columns=(TEXTS,)):
    (info,) = every_format.export_all(task, folder, columns, [name]).values()
    return info


def cut(folder, texts):
    """Padded arrays by the folder's tokenizer, as one would make them without TensorFlow."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(texts)
    names = {"token_ids": "ids", "segment_ids": "type_ids", "padding_mask": "attention_mask"}
    return {
        name: np.array([getattr(one, attribute) for one in found], "int32")
        for name, attribute in names.items()
    }


def check(info, name, difference=1e-5):
    assert info.path.name == name
    assert info.texts == len(TEXTS) + len(HARD_TEXTS)
    assert info.max_difference <= difference
    assert info.bytes == export_folder.size(info.path)
    assert export_folder.read_marker(info.path)["class_names"] == list(NAMES)


@installed("litert")
def test_litert_takes_ids_of_any_shape(task, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    info = exported(task, tmp_path, "litert")
    check(info, "litert")
    interpreter = Interpreter(str(info.path / "model.tflite"))
    # TensorFlow's own operations would need TensorFlow beside the interpreter.
    assert not [op for op in interpreter._get_ops_details() if op["op_name"].startswith("Flex")]
    run = interpreter.get_signature_runner("serving_default")
    for texts in (TEXTS, TEXTS[:1]):
        found = run(**cut(info.path, texts))["probabilities"]
        np.testing.assert_allclose(found, task.predict(texts), atol=1e-5)


@installed("onnx")
def test_onnx_takes_ids_of_any_shape(task, tmp_path):
    import onnxruntime

    info = exported(task, tmp_path, "onnx")
    check(info, "onnx")
    run = onnxruntime.InferenceSession(str(info.path / "model.onnx"))
    assert {one.name for one in run.get_inputs()} == set(task.scorer.input)
    for texts in (TEXTS, TEXTS[:1]):
        (found,) = run.run(["probabilities"], cut(info.path, texts))
        np.testing.assert_allclose(found, task.predict(texts), atol=1e-5)


def test_a_keras_hub_folder_is_the_model_and_a_preset_to_go_on_from(task, tmp_path):
    info = exported(task, tmp_path, "keras_hub")
    check(info, "keras_hub")
    loaded = load_model(info.path)
    np.testing.assert_allclose(loaded.predict(TEXTS), task.predict(TEXTS), atol=1e-6)
    preset = backbones.load(str(info.path))
    assert preset.exact_gelu
    ids = pad(task.preprocessor, encode(preset.preprocessor, TEXTS))
    found, expected = (model(ids)["pooled_output"] for model in (preset.backbone, task.backbone))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    backbone = keras_hub.models.Backbone.from_preset(str(info.path))
    assert isinstance(backbone, keras_hub.models.BertBackbone)


def test_a_hugging_face_folder_means_the_same_logits_and_tokens(task, tmp_path):
    info = exported(task, tmp_path, "hugging_face")
    check(info, "hugging_face", 1e-4)
    assert (info.facts, info.milliseconds) == ({"other_tokens": 0}, None)
    config = json.loads((info.path / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert (config["hidden_act"], config["id2label"]["1"]) == ("gelu", "good")
    classifier = Classifier(str(info.path))
    ids = pad(task.preprocessor, encode(task.preprocessor, TEXTS))
    expected = np.asarray(task.network(ids)) / 1.7
    assert np.ptp(expected, axis=0).min() > 0.1
    for text, logits in zip(TEXTS, expected, strict=True):
        np.testing.assert_allclose(classifier.logits(cut(info.path, [text]))[0], logits, atol=1e-4)


def test_the_other_gelu_is_named(tmp_path):
    base = make_task()
    task = TextTask(base.backbone, base.preprocessor, "classification", NAMES, "backbone")
    info = exported(shaken(task), tmp_path, "hugging_face")
    assert json.loads((info.path / "config.json").read_text())["hidden_act"] == "gelu_new"


@pytest.mark.parametrize(
    ("kind", "names", "options"),
    [
        ("regression", ("value",), {"target_mean": 100.0, "target_std": 10.0}),
        ("multi_label", ("a", "b"), {}),
    ],
)
def test_distilbert_of_its_first_token_passes_through_the_layer_before_the_classifier(
    tmp_path, kind, names, options
):
    task = distil(kind, names, **options)
    if kind == "multi_label":
        task.calibrate(0.6)
    info = exported(task, tmp_path, "hugging_face")
    config = json.loads((info.path / "config.json").read_text())
    assert config["architectures"] == ["DistilBertForSequenceClassification"]
    classifier = Classifier(str(info.path))
    found = np.concatenate(
        [classifier.logits_and_outputs(cut(info.path, [text])) for text in TEXTS]
    )
    found = found[:, len(names) :]
    np.testing.assert_allclose(found, task.predict(TEXTS), rtol=1e-5, atol=1e-5)
    assert np.ptp(found, axis=0).min() > 0.01


def test_pairs(task, tmp_path):
    pair = (TEXTS, TEXTS[::-1])
    info = exported(task, tmp_path, "hugging_face", pair)
    tokenizer = Tokenizer.from_file(str(info.path / "tokenizer.json"))
    ids = tokenizer.encode(TEXTS[0], TEXTS[1])
    expected = encode(task.preprocessor, TEXTS[:1], TEXTS[1:2])[0]
    assert (ids.ids, ids.type_ids) == tuple(v.tolist() for v in expected.values())


def test_transformers_loads_equal_logits(task, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    for model in (task, distil("multi_label", ("a", "b"))):
        info = exported(model, tmp_path / model.kind, "hugging_face")
        path = str(info.path)
        loaded = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        ids = pad(model.preprocessor, encode(model.preprocessor, TEXTS))
        with torch.no_grad():
            inputs = tokenizer(TEXTS, return_tensors="pt", truncation=True, padding=True)
            found = loaded(**inputs).logits.numpy()
        np.testing.assert_allclose(found, model.network(ids) / model.temperature, atol=1e-4)


def test_transformers_tokenizer_gives_the_models_tokens(task, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    info = exported(task, tmp_path, "hugging_face")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(info.path))
    texts = [*TEXTS, *HARD_TEXTS]
    expected = [row["token_ids"].tolist() for row in encode(task.preprocessor, texts)]
    assert tokenizer(texts, truncation=True)["input_ids"] == expected


def stand_in(monkeypatch, content, run):
    """A format that is quick to write, under a name that may be chosen."""
    form = every_format._Format(
        name="stand-in",
        write=lambda model, path: (path / "model.onnx").write_text(content),
        run=f"run = lambda i: {run}",
    )
    monkeypatch.setitem(every_format._FORMATS, "onnx", form)


@pytest.fixture
def even(task, monkeypatch):
    monkeypatch.setattr(task, "predict", lambda texts: np.full((len(texts), 3), 1 / 3))
    return task


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("[1 / 3, 1 / 3, 1 / 3 + 2e-5]", r"stand-in differs from the model by 2e-05 .*on the text"),
        ("[float('nan')] * 3", "stand-in differs from the model by nan"),
        ("1 / 0", r"stand-in does not run in a fresh process(.|\n)*ZeroDivisionError"),
    ],
)
def test_a_failed_parity_leaves_the_former_export_whole(even, tmp_path, monkeypatch, run, message):
    stand_in(monkeypatch, "former", "[1 / 3] * 3")
    exported(even, tmp_path, "onnx")
    before = runs.files_of(tmp_path)
    stand_in(monkeypatch, "other", run)
    with pytest.raises(ExportError, match=message):
        exported(even, tmp_path, "onnx")
    assert runs.files_of(tmp_path / "onnx") == {
        name.removeprefix("onnx/"): time for name, time in before.items() if name != "onnx"
    }
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    stand_in(monkeypatch, "third", "[1 / 3] * 3")
    assert (exported(even, tmp_path, "onnx").path / "model.onnx").read_text() == "third"


def test_what_is_not_ours_is_left_alone(task, tmp_path):
    (tmp_path / "litert").mkdir()
    (tmp_path / "litert" / "mine.txt").write_text("dear")
    with pytest.raises(UserError, match=r'holds "litert", which tf_finetune did not write'):
        every_format.check_exports(tmp_path, ["litert"])
    assert [path.name for path in tmp_path.rglob("*")] == ["litert", "mine.txt"]


@pytest.mark.parametrize("name", ["litert_dynamic", "litert_int8"])
def test_formats_of_pictures_are_refused(task, name):
    with pytest.raises(UserError, match=rf'"{name}", which is for models of pic.*onnx, keras_hub'):
        every_format.check_model(task, [name])


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(every_format.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r'"onnx", which needs onnx; run `pip .*tf_finetune\[onnx\]'
    ):
        every_format.check_exports(tmp_path, ["saved_model", "onnx"])
    with pytest.raises(UserError, match=r'"litert_int8", which needs ai_.*tf_finetune\[litert\]'):
        every_format.check_exports(tmp_path, ["litert_int8"])


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ("first", r'pooling is "first", which.*Set config.model.pooling="backbone" and train'),
        ("mean", r'pooling is "mean", which.*Set config.model.pooling="backbone" and train'),
    ],
)
def test_a_pooling_that_transformers_lacks_is_refused(pooling, message):
    base = make_task()
    task = TextTask(base.backbone, base.preprocessor, "classification", NAMES, pooling)
    every_format.check_model(task, ["saved_model"])
    with pytest.raises(UserError, match=message):
        every_format.check_model(task, ["hugging_face"])


def test_a_backbone_that_is_not_written_is_refused():
    class Other(keras_hub.models.BertBackbone):
        pass

    base = make_task()
    other = Other.from_config(base.backbone.get_config())
    task = TextTask(other, base.preprocessor, "classification", NAMES, "backbone")
    with pytest.raises(UserError, match="backbone is a Other; only BERT and DistilBERT"):
        every_format.check_model(task, ["hugging_face"])


def test_a_run_ends_with_the_formats_it_names(preset, tmp_path):
    config = runs.config_for(
        preset, phases="probe", pooling="backbone", export=True, formats=("hugging_face",)
    )
    said = []
    card = fine_tune(config, tmp_path / "run", runs.classes(), say=said.append).metrics
    assert (card["export"], list(card["exports"])) == (None, ["hugging_face"])
    one = card["exports"]["hugging_face"]
    assert one["max_difference"] < 1e-4
    # KerasHub's own tokenizer cuts some of the hard texts in its own way.
    assert 0 < one["facts"]["other_tokens"] < len(HARD_TEXTS)
    report = (tmp_path / "run" / "report.md").read_text()
    assert "| hugging_face |" in report
    assert f"cuts {one['facts']['other_tokens']} of the {one['texts']} texts" in report
    assert "`results.formats` does not name it" in report
