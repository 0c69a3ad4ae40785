"""Random models of pictures that are small enough for unit tests."""

import keras
import keras_hub

from tf_finetune.model.image_task import ImageTask
from tf_finetune.model.scaling import Scaling

SCALING = Scaling(scale=(1 / 127.5,) * 3, offset=(-1.0,) * 3)
_NORMS = {
    "batch": keras.layers.BatchNormalization,
    "group": lambda name: keras.layers.GroupNormalization(4, name=name),
    "layer": keras.layers.LayerNormalization,
}


def tiny_image_backbone(norm="batch", dropout=0.0, seed=0):
    """A stem and two residual blocks: maps (n, h / 4, w / 4, 16)."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(16, 4, strides=4, use_bias=False, name="stem_conv")(inputs)
    x = _NORMS[norm](name="stem_norm")(x)
    for block in ("block1", "block2"):
        y = keras.layers.Conv2D(16, 3, padding="same", name=f"{block}_a_conv")(x)
        y = _NORMS[norm](name=f"{block}_a_norm")(y)
        y = keras.layers.Activation("relu", name=f"{block}_a_relu")(y)
        y = keras.layers.Dropout(dropout, name=f"{block}_a_drop")(y)
        x = keras.layers.Add(name=f"{block}_a_add")([x, y])
    return keras.Model(inputs, x, name="tiny_pictures")


def tiny_image_task(kind="classification", class_names=("circle", "square"), **options):
    backbone = tiny_image_backbone(options.pop("norm", "batch"), options.pop("backbone_dropout", 0))
    options = {"size": (32, 32), "dropout": 0.0, "scale": SCALING.scale} | options
    options.setdefault("offset", SCALING.offset)
    return ImageTask(backbone, None, kind, class_names, **options)


def tiny_resnet():
    """KerasHub's own, as small as it can be."""
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
    )


def save_image_preset(file, **options):
    """A `.keras` file with a random `ImageTask`."""
    tiny_image_task(**options).save(file)
    return file
