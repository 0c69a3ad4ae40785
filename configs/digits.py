"""Handwritten digits of scikit-learn: a pretrained EfficientNet-Lite0 on 1,400 pictures.

    python examples/write_pictures.py digits pictures/digits
    python -m tf_finetune.main --config=configs/digits.py --workdir=runs/digits

The split is 80/10/10. Digits are not mirrored: another one would come of some.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.path = "pictures/digits"
    config.model.preset = "efficientnet_lite0"
    config.model.image_size = 64
    return config
