"""EfficientNet-Lite0 as its package holds it, and what is wrong with other files."""

import keras
import numpy as np
import pytest

from tests.model.torch_files import write_torch
from tf_finetune.errors import UserError
from tf_finetune.model import lite0
from tf_finetune.model.image_backbones import load_pictures
from tf_finetune.model.torch_file import read_tensors
from tf_finetune.packaged import packaged_path


def test_another_model_is_named_so(tmp_path):
    file = write_torch(tmp_path / "a.pth", {"_conv_stem.weight": np.zeros((32, 3, 3, 3), "f4")})
    with pytest.raises(UserError, match=r"another model than EfficientNet-Lite0: of 245 tensors"):
        load_pictures(str(file))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.pth"):
        load_pictures(str(tmp_path / "a.pth"))


@pytest.fixture
def file():
    return packaged_path(lite0.PACKAGED)


@pytest.mark.real
class TestPackaged:
    def test_a_file_that_is_cut_off(self, file, tmp_path):
        (tmp_path / "a.pth").write_bytes(file.read_bytes()[:5_000_000])
        with pytest.raises(UserError, match=r"a\.pth.*cut off"):
            load_pictures(str(tmp_path / "a.pth"))

    def test_it_equals_convolutions_padded_as_tensorflow_pads(self, file):
        import tensorflow as tf

        tensors = read_tensors(file)
        loaded = load_pictures(lite0.PRESET)
        pixels = np.random.default_rng(0).integers(0, 256, (2, 75, 60, 3)).astype("float32")
        x = (pixels - 127) / 128

        def normed(x, name):
            mean, var = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
            x = (x - mean) / np.sqrt(var + 1e-3)
            return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

        kernel = tensors["_conv_stem.weight"].transpose(2, 3, 1, 0)
        x = tf.nn.relu6(normed(tf.nn.conv2d(x, kernel, 2, "SAME"), "_bn0"))
        block, strides = 0, (1, 2, 2, 2, 1, 2, 1)
        for stage, repeats in enumerate((1, 2, 2, 3, 3, 4, 1)):
            for i in range(repeats):
                y, name = x, f"_blocks.{block}."
                if stage:
                    kernel = tensors[f"{name}_expand_conv.weight"].transpose(2, 3, 1, 0)
                    y = tf.nn.relu6(normed(tf.nn.conv2d(y, kernel, 1, "SAME"), f"{name}_bn0"))
                step = 1 if i else strides[stage]
                kernel = tensors[f"{name}_depthwise_conv.weight"].transpose(2, 3, 0, 1)
                y = tf.nn.depthwise_conv2d(y, kernel, (1, step, step, 1), "SAME")
                y = tf.nn.relu6(normed(y, f"{name}_bn1"))
                kernel = tensors[f"{name}_project_conv.weight"].transpose(2, 3, 1, 0)
                y = normed(tf.nn.conv2d(y, kernel, 1, "SAME"), f"{name}_bn2")
                x, block = (x + y if i else y), block + 1
        kernel = tensors["_conv_head.weight"].transpose(2, 3, 1, 0)
        x = tf.nn.relu6(normed(tf.nn.conv2d(x, kernel, 1, "SAME"), "_bn1"))
        scale, offset = loaded.scaling.scale[0], loaded.scaling.offset[0]
        np.testing.assert_allclose(loaded.backbone(pixels * scale + offset), x, atol=2e-4)

    def test_it_stays_what_it_is_in_a_file(self, tmp_path):
        backbone = load_pictures(lite0.PRESET).backbone
        backbone.save(tmp_path / "a.keras")
        again = keras.models.load_model(tmp_path / "a.keras")
        x = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype("float32")
        np.testing.assert_array_equal(again(x), backbone(x))
