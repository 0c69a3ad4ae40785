import keras
import numpy as np
import pyarrow as pa
import pytest

from tests.tiny import tiny_task, tiny_texts
from tf_finetune.data.text import tokenize
from tf_finetune.fit.feature_cache import FeatureStore, at_rows, outputs_of


@pytest.fixture(scope="module")
def task():
    return tiny_task(backbone_dropout=0.5, dropout=0.5)


@pytest.fixture(scope="module")
def store(task, tmp_path_factory):
    texts, _ = tiny_texts(40)
    rows = np.arange(40)
    folder = tmp_path_factory.mktemp("tokens")
    return tokenize(task.preprocessor, pa.table({"text": texts}), rows, folder, "d")


def test_outputs_come_in_the_order_of_the_rows_whatever_the_batches(task, store):
    rows = np.array([7, 3, 39, 0, 21, 22])
    found = outputs_of(task.network, store, rows, batch_size=4)
    one_by_one = [np.asarray(task.network(store.batch(np.array([row]))))[0] for row in rows]
    np.testing.assert_allclose(found, one_by_one, atol=1e-6)


def test_features_are_made_without_dropout_and_only_for_the_rows_asked_for(task, store):
    rows = np.array([1, 5, 30])
    first, second = (outputs_of(task.encoder, store, rows, batch_size=2) for _ in "ab")
    np.testing.assert_array_equal(first, second)
    features = FeatureStore(at_rows(first, rows, 40))
    np.testing.assert_array_equal(features.batch(rows), first)
    assert not features.batch(np.array([0, 39])).any()
    assert len(features.lengths) == 40


def test_the_head_on_features_equals_the_whole_network(task, store):
    rows = np.arange(40)
    features = FeatureStore(outputs_of(task.encoder, store, rows, batch_size=16))
    np.testing.assert_allclose(
        outputs_of(task.head, features, rows, batch_size=16),
        outputs_of(task.network, store, rows, batch_size=16),
        atol=1e-6,
    )


def test_a_feature_store_gives_rows_in_any_order():
    store = FeatureStore(np.eye(3, dtype="float32"))
    np.testing.assert_array_equal(store.batch(np.array([2, 0])), np.eye(3)[[2, 0]])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(2.0)])
    found = outputs_of(model, store, np.array([2, 1]), batch_size=2)
    np.testing.assert_array_equal(found, 2 * np.eye(3)[[2, 1]])
