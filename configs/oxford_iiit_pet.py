"""Photos of cats and dogs in 37 breeds, TensorFlow Datasets' oxford_iiit_pet.

    python -c "import tensorflow_datasets as tfds; tfds.load('oxford_iiit_pet')"
    python -m tf_finetune.main --config=configs/oxford_iiit_pet.py --workdir=runs/oxford_iiit_pet

The first line downloads 7,349 photos; a run downloads nothing. The data set's own test
split is used; a tenth of its training photos is kept for validation.
"""

from tf_finetune import FineTuneConfig


def get_config() -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.tfds = "oxford_iiit_pet"
    config.data.test = "test"
    config.data.augment = "medium"
    config.data.flip = True
    config.model.preset = "efficientnet_lite0"
    return config
