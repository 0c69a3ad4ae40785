"""Emoji in nine categories: a pretrained EfficientNet-Lite0 on the pictures of an npm package.

    npm pack emoji-datasource-google@16 && tar xzf emoji-datasource-google-16.0.0.tgz
    python examples/write_pictures.py emoji pictures/emoji --source package
    python -m tf_finetune.main --config=configs/emoji.py --workdir=runs/emoji

They are 1,906, from 85 in the smallest category to 386 in the largest; the split is 80/10/10.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "pictures/emoji"
    config.data.augment = "light"
    config.data.flip = True
    config.model.preset = "efficientnet_lite0"
    config.model.image_size = 128
    return config
