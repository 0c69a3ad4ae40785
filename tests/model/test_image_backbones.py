import json
import os

import keras
import keras_hub
import numpy as np
import pytest
import safetensors.numpy

from tests.tiny_pictures import (
    SCALING,
    save_image_preset,
    tiny_image_backbone,
    tiny_image_task,
    tiny_resnet,
)
from tf_finetune.errors import UserError
from tf_finetune.model import presets
from tf_finetune.model.backbones import Loaded
from tf_finetune.model.image_backbones import (
    LoadedPictures,
    application,
    check_size,
    is_for_pictures,
    load_pictures,
)
from tf_finetune.model.scaling import PixelScaling, scaling_of

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")


def scaled(loaded, pixels=PIXELS):
    scaling = loaded.scaling
    return PixelScaling(scaling.scale, scaling.offset, scaling.flip)(pixels)


@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50", "DenseNet121", "MobileNetV3Small"])
def test_pixels_are_scaled_as_keras_applications_does_it(name):
    function = getattr(keras.applications, name)
    module = __import__(function.__module__, fromlist=["preprocess_input"])
    scaling = scaling_of(module.preprocess_input, name)
    found = PixelScaling(scaling.scale, scaling.offset, scaling.flip)(PIXELS)
    np.testing.assert_allclose(found, module.preprocess_input(PIXELS.copy()), atol=2e-4)


def test_more_than_a_scale_and_an_offset_is_refused():
    with pytest.raises(UserError, match=r'"odd" does to pixels beforehand is more than a scale'):
        scaling_of(lambda x: x**2, "odd")


def test_an_application_of_random_weights():
    loaded = application("MobileNetV2", None)
    assert (loaded.size, loaded.fixed) == ((224, 224), False)
    assert loaded.backbone(scaled(loaded)).shape == (2, 1, 1, 1280)
    with pytest.raises(UserError, match=r'no "MobilNetV2" in keras\.applications.*MobileNetV2'):
        load_pictures("keras.applications:MobilNetV2")


def test_a_folder_of_kerashub_and_the_same_from_the_hub(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    backbone = tiny_resnet()
    converter = keras_hub.layers.ResNetImageConverter(
        image_size=(48, 48), scale=[0.1, 0.2, 0.3], offset=[1, 2, 3], interpolation="lanczos3"
    )
    preprocessor = keras_hub.models.ResNetImageClassifierPreprocessor(converter)
    backbone.save_to_preset(tmp_path)
    with pytest.raises(UserError):
        load_pictures(str(tmp_path))
    preprocessor.save_to_preset(tmp_path)
    loaded = presets.load(str(tmp_path))
    assert isinstance(loaded, LoadedPictures)
    assert (loaded.size, loaded.interpolation) == ((48, 48), "lanczos")
    expected = PIXELS * np.array([0.1, 0.2, 0.3]) + np.array([1, 2, 3])
    np.testing.assert_allclose(scaled(loaded), expected, rtol=1e-5)
    np.testing.assert_array_equal(loaded.backbone(PIXELS), backbone(PIXELS))
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path)
    )
    fetched = presets.load("hf://keras/resnet_18_imagenet")
    assert asked == ["keras/resnet_18_imagenet"]
    np.testing.assert_array_equal(fetched.backbone(PIXELS), backbone(PIXELS))


def resnet18(folder, **changes):
    """A folder as timm writes it, of random weights."""
    random, tensors = np.random.default_rng(0), {}

    def convolution(name, out, into, side):
        shape = out, into, side, side
        tensors[f"{name}.weight"] = random.normal(0, 0.05, shape).astype("float32")

    def norm(name, count):
        for part in ("weight", "running_var"):
            tensors[f"{name}.{part}"] = np.ones(count, "float32")
        for part in ("bias", "running_mean"):
            tensors[f"{name}.{part}"] = np.zeros(count, "float32")

    convolution("conv1", 64, 3, 7)
    norm("bn1", 64)
    before = 64
    for stage, count in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            place = f"layer{stage}.{block}"
            for number, into in ((1, before), (2, count)):
                convolution(f"{place}.conv{number}", count, into, 3)
                norm(f"{place}.bn{number}", count)
            if before != count:
                convolution(f"{place}.downsample.0", count, before, 1)
                norm(f"{place}.downsample.1", count)
            before = count
    tensors["fc.weight"] = np.zeros((1000, 512), "float32")
    tensors["fc.bias"] = np.zeros(1000, "float32")
    config = {
        "architecture": "resnet18",
        "num_classes": 1000,
        "num_features": 512,
        "pretrained_cfg": {
            "input_size": [3, 288, 288],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "interpolation": "bicubic",
        },
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_folder_of_timm(tmp_path):
    loaded = load_pictures(str(resnet18(tmp_path / "whole")))
    assert loaded.interpolation == "bicubic"
    np.testing.assert_allclose(
        scaled(loaded), (PIXELS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], atol=1e-5
    )
    assert loaded.backbone(scaled(loaded)).shape == (2, 1, 1, 512)
    file = tmp_path / "whole" / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    kernel = next(v for v in loaded.backbone.weights if tuple(v.shape) == (7, 7, 3, 64))
    np.testing.assert_array_equal(kernel, tensors["conv1.weight"].transpose(2, 3, 1, 0))
    file.write_bytes(file.read_bytes()[:1_000_000])
    for folder in (file.parent, resnet18(tmp_path / "wrong", architecture="resnet34")):
        with pytest.raises(UserError, match=folder.name) as mistake:
            load_pictures(str(folder))
        assert "\n" not in str(mistake.value)


def test_a_file_of_a_task(tmp_path):
    task = tiny_image_task(interpolation="bicubic")
    task.save(tmp_path / "a.keras")
    loaded = presets.load(str(tmp_path / "a.keras"))
    assert (loaded.scaling, loaded.size, loaded.fixed) == (SCALING, (32, 32), False)
    assert loaded.interpolation == "bicubic"
    np.testing.assert_array_equal(loaded.backbone(PIXELS), task.backbone(PIXELS))


def test_a_file_of_a_plain_model_has_to_scale_pixels_itself(tmp_path):
    base = tiny_image_backbone()
    base.save(tmp_path / "bare.keras")
    with pytest.raises(UserError, match=r"does not say how pixels are scaled.*Rescaling"):
        presets.load(str(tmp_path / "bare.keras"))
    inputs = keras.Input((40, 40, 3))
    whole = keras.Model(inputs, base(keras.layers.Rescaling(1 / 255)(inputs)))
    whole.save(tmp_path / "whole.keras")
    loaded = presets.load(str(tmp_path / "whole.keras"))
    assert (loaded.size, loaded.fixed) == ((40, 40), True)
    assert check_size(loaded, 0, "x") == (40, 40)
    with pytest.raises(UserError, match="image_size is 32, but x takes pictures of 40 x 40"):
        check_size(loaded, 32, "x")
    pooled = keras.layers.GlobalAveragePooling2D()(whole.output)
    keras.Model(inputs, keras.layers.Dense(3)(pooled)).save(tmp_path / "top.keras")
    with pytest.raises(UserError, match=r'ends with "[^"]+", its classifier'):
        presets.load(str(tmp_path / "top.keras"))
    chosen = keras.layers.Activation("softmax")(keras.layers.Flatten()(pooled))
    keras.Model(inputs, chosen).save(tmp_path / "top.keras")
    with pytest.raises(UserError, match=r'ends with "activation[^"]*", its classifier'):
        presets.load(str(tmp_path / "top.keras"))
    keras.Model(inputs, [pooled, whole.output]).save(tmp_path / "two.keras")
    with pytest.raises(UserError, match="has 2 outputs; save the model with the one"):
        presets.load(str(tmp_path / "two.keras"))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    mark = tmp_path / "it-ran"
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    hostile = keras.layers.Lambda(lambda y, mark=str(mark): os.system(f"touch {mark}") or y)
    keras.Model(inputs, hostile(x)).save(tmp_path / "a.keras")
    mark.unlink(missing_ok=True)
    with pytest.raises(UserError, match="safe mode"):
        presets.load(str(tmp_path / "a.keras"))
    assert not mark.exists()


def test_names_of_text_and_of_pictures_are_told_apart(preset, tmp_path):
    assert not is_for_pictures("minilm")
    assert not is_for_pictures("bert_tiny_en_uncased")
    assert is_for_pictures("resnet_18_imagenet")
    assert is_for_pictures("hf://timm/resnet18.a1_in1k")
    assert is_for_pictures("hf://keras/resnet_18_imagenet")
    assert is_for_pictures("kaggle://keras/resnetv1/keras/resnet_18_imagenet")
    assert not is_for_pictures("hf://keras/bert_tiny_en_uncased")
    assert not is_for_pictures("hf://somebody/some-bert")
    assert is_for_pictures(str(save_image_preset(tmp_path / "a.keras")))
    assert isinstance(presets.load(str(preset)), Loaded)
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "b.keras")
    assert not is_for_pictures(str(tmp_path / "b.keras"))
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.ReLU()]).save(tmp_path / "c.keras")
    assert is_for_pictures(str(tmp_path / "c.keras"))
    (tmp_path / "d.keras").write_text("no zip")
    assert not is_for_pictures(str(tmp_path / "d.keras"))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    assert is_for_pictures(str(tmp_path))
