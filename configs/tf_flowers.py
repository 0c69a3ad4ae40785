"""Photos of flowers in five classes, TensorFlow Datasets' tf_flowers.

    python -c "import tensorflow_datasets as tfds; tfds.load('tf_flowers')"
    python -m tf_finetune.main --config=configs/tf_flowers.py --workdir=runs/tf_flowers

The first line downloads 3,670 photos; a run downloads nothing. The data set has one split,
of which a tenth each is kept for validation and test.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.tfds = "tf_flowers"
    config.data.augment = "medium"
    config.data.flip = True
    config.model.preset = "efficientnet_lite0"
    return config
