"""Loading backbones: every kind of source, and one clear message for each mistake."""

import json
import re
import shutil

import hugging_face
import keras
import keras_hub
import numpy as np
import pytest

from tf_finetune.errors import UserError
from tf_finetune.model import backbones, folders
from tf_finetune.model.task import TextTask
from tf_finetune.model.wordpiece import FaithfulBertTokenizer

TEXTS = ["The film is good.", "Cafés unseen", ""]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole Hugging Face folder; tests that damage it work on a copy."""
    return hugging_face.write(tmp_path_factory.mktemp("hf") / "bert")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "bert")


@pytest.fixture(scope="module")
def loaded(whole):
    return backbones.load(str(whole))


def hidden(item):
    return np.asarray(item.backbone(item.preprocessor(TEXTS))["sequence_output"])


def error(preset):
    """The message of the UserError, which must be one line that names the setting."""
    with pytest.raises(UserError) as caught:
        backbones.load(str(preset))
    message = str(caught.value)
    assert message.startswith("config.model.preset: ")
    assert "\n" not in message
    return message


# What loads.


def test_hugging_face_folder(loaded):
    assert loaded.exact_gelu
    assert loaded.max_length == hugging_face.CONFIG["max_position_embeddings"]
    ids = loaded.preprocessor(["Cafés unseen"])
    vocabulary = hugging_face.VOCABULARY
    wanted = [vocabulary.index(t) for t in ["[CLS]", "cafe", "##s", "un", "##seen", "[SEP]"]]
    assert np.asarray(ids["token_ids"])[0, :7].tolist() == [*wanted, 0]
    assert hidden(loaded).dtype == "float32"


@pytest.mark.parametrize(
    ("changes", "exact"),
    [({"hidden_act": "gelu"}, True), ({"hidden_act": "gelu_new"}, False)],
)
def test_gelu_is_the_one_that_the_checkpoint_names(tmp_path, changes, exact):
    loaded = backbones.load(str(hugging_face.write(tmp_path / "bert", **changes)))
    names = {
        layer.activation.__name__
        for layer in loaded.backbone._flatten_layers()
        if "gelu" in getattr(getattr(layer, "activation", None), "__name__", "")
    }
    assert names == {"_exact_gelu" if exact else "gelu_approximate"}
    assert loaded.exact_gelu is exact


def test_sharded_weights(whole, folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    keys = hugging_face._weights()
    index = {"weight_map": dict.fromkeys(keys, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(
        hidden(backbones.load(str(folder))), hidden(backbones.load(str(whole)))
    )


def test_folder_with_tokenizer_json_alone(loaded, folder):
    (folder / "vocab.txt").unlink()
    vocabulary = {token: i for i, token in enumerate(hugging_face.VOCABULARY)}
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "model": {"type": "WordPiece", "vocab": vocabulary},
                "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
            }
        )
    )
    (folder / "tokenizer_config.json").write_text("{}")
    np.testing.assert_array_equal(hidden(backbones.load(str(folder))), hidden(loaded))


def test_cased_checkpoint_keeps_case_and_accents(folder):
    settings = {"do_lower_case": False, "strip_accents": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = backbones.load(str(folder)).preprocessor.tokenizer
    unknown = hugging_face.VOCABULARY.index("[UNK]")
    assert list(tokenizer("The café")) == [unknown, unknown]
    assert list(tokenizer("the cafe")) != [unknown, unknown]


def test_kerashub_folder_round_trip(loaded, tmp_path):
    loaded.backbone.save_to_preset(tmp_path / "preset")
    loaded.preprocessor.save_to_preset(tmp_path / "preset")
    again = backbones.load(str(tmp_path / "preset"))
    assert isinstance(again.preprocessor.tokenizer, FaithfulBertTokenizer)
    assert again.preprocessor.sequence_length == loaded.preprocessor.sequence_length
    # A KerasHub folder does not keep the mend; it can be made again.
    assert not again.exact_gelu
    assert np.abs(hidden(again) - hidden(loaded)).max() > 1e-5
    backbones.use_exact_gelu(again.backbone)
    np.testing.assert_array_equal(hidden(again), hidden(loaded))


def test_backbone_keras_file_round_trip(loaded, tmp_path):
    loaded.backbone.save(tmp_path / "backbone.keras")
    again = keras.saving.load_model(tmp_path / "backbone.keras")
    backbones.use_exact_gelu(again)
    x = loaded.preprocessor(TEXTS)
    np.testing.assert_array_equal(again(x)["sequence_output"], hidden(loaded))


def test_text_task_file(whole, tmp_path):
    loaded = backbones.load(str(whole))
    task = TextTask(
        loaded.backbone,
        loaded.preprocessor,
        "classification",
        ("no", "yes"),
        exact_gelu=loaded.exact_gelu,
    )
    task.save(tmp_path / "model.keras")
    again = backbones.load(str(tmp_path / "model.keras"))
    assert again.exact_gelu
    assert again.max_length == loaded.max_length
    np.testing.assert_array_equal(hidden(again), hidden(loaded))
    half = backbones.load(str(tmp_path / "model.keras"), dtype="mixed_bfloat16")
    assert half.backbone.compute_dtype == "bfloat16"
    assert half.backbone.variable_dtype == "float32"
    np.testing.assert_allclose(hidden(half).astype("float32"), hidden(loaded), atol=0.2)


def test_kerashub_task_file(tmp_path):
    tokenizer = keras_hub.models.BertTokenizer(hugging_face.VOCABULARY, lowercase=True)
    classifier = keras_hub.models.BertTextClassifier(
        keras_hub.models.BertBackbone(17, 1, 2, 8, 16, max_sequence_length=12),
        num_classes=2,
        preprocessor=keras_hub.models.BertTextClassifierPreprocessor(tokenizer, 10),
    )
    classifier.save(tmp_path / "model.keras")
    again = backbones.load(str(tmp_path / "model.keras"))
    assert (again.max_length, again.exact_gelu) == (12, False)
    ids = classifier.preprocessor(TEXTS)
    np.testing.assert_array_equal(
        again.backbone(ids)["pooled_output"], classifier.backbone(ids)["pooled_output"]
    )


def test_dtype(whole):
    loaded = backbones.load(str(whole), dtype="mixed_bfloat16")
    assert loaded.backbone.compute_dtype == "bfloat16"
    assert loaded.backbone.variable_dtype == "float32"


def test_hub_name_is_fetched_without_pickles(whole, monkeypatch):
    asked = {}

    def fetch(name, allow_patterns, **_):
        asked.update(name=name, patterns=allow_patterns)
        return str(whole)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert backbones.load("hf://owner/name").exact_gelu
    assert asked["name"] == "owner/name"
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["patterns"])


# What does not.


def test_unknown_preset_names_the_nearest():
    message = error("bert_bas_en_uncased")
    assert "bert_base_en_uncased" in message
    assert "minilm" in error("mini_lm")


def test_preset_of_another_kind():
    assert "no text encoder" in error("resnet_50_imagenet")


def test_missing_folder():
    assert 'no folder "runs/none/model"' in error("runs/none/model")
    assert "hf://google-bert/bert-base-uncased" in error("google-bert/bert-base-uncased")


def test_unknown_hub_name():
    assert "could not be fetched" in error("hf://tf-finetune-tests/there-is-no-such-model")


def test_hub_without_network(monkeypatch):
    def fetch(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert "Name or service not known" in error("hf://owner/name")


def test_kaggle_without_network(monkeypatch):
    def fetch(*_, **__):
        raise ConnectionError("Max retries exceeded\nwith url")

    monkeypatch.setattr("kagglehub.model_download", fetch)
    assert "could not be fetched; check the network" in error("bert_tiny_en_uncased")


def test_folder_without_config(tmp_path):
    assert "no config.json" in error(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"hidden_size": 8}'])
def test_config_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    assert "config.json" in error(folder)


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "no weights (model.safetensors)" in error(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    message = error(folder)
    assert "pytorch_model.bin" in message
    assert "convert" in message


@pytest.mark.parametrize("size", [0, 5, 500, -100])
def test_truncated_weights(folder, size):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert "model.safetensors" in error(folder)


def test_weight_file_that_is_missing_from_the_index(folder):
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00001.safetensors" in error(folder)
    for text in ("{", "{}"):
        (folder / "model.safetensors.index.json").write_text(text)
        assert "could not be converted" in error(folder)


def test_weights_of_another_shape(folder):
    config = {**hugging_face.CONFIG, "hidden_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    assert "could not be converted" in error(folder)


def test_checkpoint_without_a_tensor_that_is_needed(folder):
    config = {**hugging_face.CONFIG, "num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(config))
    assert "encoder.layer.2" in error(folder)


def test_folder_without_vocabulary(folder):
    (folder / "vocab.txt").unlink()
    assert "vocab.txt" in error(folder)


@pytest.mark.parametrize("model_type", ["mpnet", "vit", "whisper"])
def test_model_type_that_is_not_converted(folder, model_type):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    message = error(folder)
    assert model_type in message
    assert ", ".join(folders.MODEL_TYPES) in message


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "relu"), ("position_embedding_type", "relative_key")]
)
def test_setting_that_kerashub_passes_over(tmp_path, key, value):
    folder = hugging_face.write(tmp_path / "bert", **{key: value})
    assert f'{key} "{value}"' in error(folder)


def test_kerashub_folder_of_another_kind(tmp_path):
    config = {"registered_name": "keras_hub>ResNetBackbone", "class_name": "ResNetBackbone"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "ResNetBackbone" in error(tmp_path)
    config["registered_name"] = "elsewhere>Unknown"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "must hold a KerasHub text backbone" in error(tmp_path)


@pytest.mark.parametrize("missing", ["model.weights.h5", "tokenizer.json"])
def test_kerashub_folder_that_is_not_whole(loaded, tmp_path, missing):
    loaded.backbone.save_to_preset(tmp_path)
    loaded.preprocessor.save_to_preset(tmp_path)
    (tmp_path / missing).unlink()
    assert missing in error(tmp_path)


def test_kerashub_folder_with_truncated_weights(loaded, tmp_path):
    loaded.backbone.save_to_preset(tmp_path)
    loaded.preprocessor.save_to_preset(tmp_path)
    file = tmp_path / "model.weights.h5"
    file.write_bytes(file.read_bytes()[:1000])
    assert "could not be read by KerasHub" in error(tmp_path)


def test_file_of_another_kind(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"")
    assert "is a file" in error(tmp_path / "weights.h5")
    assert "there is no file" in error(tmp_path / "none.keras")
    (tmp_path / "text.keras").write_text("no zip")
    assert "no zip" in error(tmp_path / "text.keras")


def test_keras_file_of_a_backbone(loaded, tmp_path):
    loaded.backbone.save(tmp_path / "backbone.keras")
    assert "bare BertBackbone" in error(tmp_path / "backbone.keras")


def test_keras_file_of_another_model(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "dense.keras")
    assert "holds a Sequential" in error(tmp_path / "dense.keras")


def test_keras_file_with_a_lambda_is_refused(tmp_path):
    inputs = keras.Input((2,))
    outputs = keras.layers.Lambda(lambda x: x + 1)(inputs)
    keras.Model(inputs, outputs).save(tmp_path / "lambda.keras")
    message = error(tmp_path / "lambda.keras")
    assert "safe mode" in message
    assert re.search("[Ll]ambda", message)


def test_keras_file_without_a_preprocessor(loaded, tmp_path):
    task = TextTask(loaded.backbone, None, "classification", ("no", "yes"), exact_gelu=True)
    task.save(tmp_path / "model.keras")
    assert "whose preprocessor is NoneType" in error(tmp_path / "model.keras")


def test_backbone_without_a_padding_mask_is_refused(tmp_path):
    backbone = keras_hub.models.FNetBackbone(
        vocabulary_size=32, num_layers=1, hidden_dim=8, intermediate_dim=8, max_sequence_length=16
    )
    with pytest.raises(UserError, match="FNetBackbone takes no padding mask"):
        backbones._loaded(backbone, None, exact_gelu=False)
