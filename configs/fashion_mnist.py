"""Clothes in ten classes, Fashion-MNIST: a pretrained EfficientNet-Lite0 on 2,000 pictures.

    sudo apt install dataset-fashion-mnist
    python examples/write_pictures.py fashion_mnist pictures/fashion_mnist
    python -m tf_finetune.main --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

`make demo-images` does the last two. docs/images.md has the accuracy and time to expect.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "pictures/fashion_mnist"
    config.data.flip = True
    config.model.preset = "efficientnet_lite0"
    config.model.image_size = 96
    return config
