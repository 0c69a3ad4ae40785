import keras_hub
import numpy as np
import pytest

from tf_finetune.exports.saved_model import export
from tf_finetune.model.task import TextTask
from tf_finetune.model.wordpiece import FaithfulBertTokenizer

WORDS = ("the", "film", "is", "good", "bad", "fine", "great", "movie", "not", "very", "word")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
OTHERS = "这部电影非常好看日本語のهذاالفيلمरायहबहुत👍🏽🎬🍿"


def make_task(kind="classification", names=("bad", "good", "fair"), seed=0):
    """A tiny BERT with weights so large that its outputs differ from text to text."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary += [*LETTERS, *(f"##{c}" for c in LETTERS)]
    vocabulary += [*dict.fromkeys(OTHERS), *(f"##{c}" for c in dict.fromkeys(OTHERS))]
    vocabulary = list(dict.fromkeys(vocabulary))
    tokenizer = FaithfulBertTokenizer(vocabulary, lowercase=True, strip_accents=True)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(vocabulary),
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=48,
    )
    task = TextTask(
        backbone=backbone,
        preprocessor=keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=48),
        kind=kind,
        class_names=names,
    )
    random = np.random.default_rng(seed)
    for variable in task.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(random.normal(0, 0.5, variable.shape))
    return task


TEXTS = [
    "The film is good.",
    "a bad movie!",
    "not very fine, boring and bad",
    "great",
    "the the the great movie is not good and not bad and fine",
]


@pytest.fixture(scope="session")
def task():
    return make_task()


@pytest.fixture(scope="session")
def exported(task, tmp_path_factory):
    """A run's export folder, written once, and what `export` said about it."""
    folder = tmp_path_factory.mktemp("run") / "export"
    return folder, export(task, folder, [TEXTS])
