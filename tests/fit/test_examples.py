import keras
import numpy as np
import pytest

from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import UserError
from tf_finetune.fit.examples import balanced_weights, examples_of_rows
from tf_finetune.fit.feature_cache import FeatureStore
from tf_finetune.fit_settings import FitConfig

RANDOM = np.random.default_rng(0)
STORE = FeatureStore(RANDOM.normal(size=(40, 4)).astype("float32"))
LABELS = np.array([0] * 30 + [1] * 10, "int32")
TRAIN, HELD_OUT = np.arange(0, 40, 2), np.arange(1, 40, 2)


def test_balanced_classes_weigh_the_same_and_rows_one_in_the_mean():
    weights = balanced_weights(LABELS)
    assert weights == {0: pytest.approx(40 / 60), 1: 2.0}
    each = np.array([weights[label] for label in LABELS])
    assert each.mean() == pytest.approx(1)
    assert each[LABELS == 0].sum() == pytest.approx(each[LABELS == 1].sum())


def test_the_training_loss_is_weighted_and_that_of_validation_is_not():
    fit = FitConfig(global_batch=20, class_weights="balanced")
    examples = examples_of_rows(STORE, LABELS, TRAIN, HELD_OUT, fit)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.0), "sparse_categorical_crossentropy")
    history = model.fit(**examples.train, validation_data=examples.validation, verbose=0).history
    weights = balanced_weights(LABELS[TRAIN])
    for rows, key, weigh in ((TRAIN, "loss", weights), (HELD_OUT, "val_loss", {0: 1.0, 1: 1.0})):
        chances = np.asarray(model(STORE.batch(rows)))[np.arange(len(rows)), LABELS[rows]]
        each = np.array([weigh[label] for label in LABELS[rows].tolist()])
        assert history[key][0] == pytest.approx(np.mean(-np.log(chances) * each), rel=1e-4)


@pytest.mark.parametrize("task", ["multi_label", "regression"])
@pytest.mark.parametrize("field", ["class_weights", "sampling"])
def test_class_weights_and_balanced_sampling_are_for_classes(task, field):
    config = FineTuneConfig()
    config.model.task = task
    setattr(config.fit, field, "balanced")
    with pytest.raises(UserError, match=f"fit.{field} is .* classification alone, not for {task}"):
        config.validate()


def test_balanced_sampling_gives_as_many_rows_of_each_class():
    fit = FitConfig(global_batch=6, sampling="balanced")
    examples = examples_of_rows(STORE, LABELS, TRAIN, HELD_OUT, fit)
    assert (examples.steps, examples.size) == (4, 20)
    for epoch in range(2):
        batches = examples.train["x"].skip(4 * epoch).take(4)
        labels = np.concatenate([y for _, y in batches])
        assert np.bincount(labels).tolist() == [10, 10]
    assert np.bincount(np.concatenate([y for _, y in examples.validation])).tolist() == [15, 5]
