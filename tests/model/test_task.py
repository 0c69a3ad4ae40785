import keras
import numpy as np
import pytest

from tests.tiny import tiny_backbone, tiny_preprocessor, tiny_task, tiny_texts
from tf_finetune.errors import UserError
from tf_finetune.model.task import TextTask

TEXTS = [*tiny_texts(30)[0], "", "good " * 50]


@pytest.mark.parametrize("pooling", ["first", "mean", "max", "backbone"])
@pytest.mark.parametrize(
    ("kind", "names"),
    [("classification", "abc"), ("multi_label", "abc"), ("regression", ("stars",))],
)
def test_predict_equals_calling_on_ids_and_survives_a_file(kind, names, pooling, tmp_path):
    task = tiny_task(kind, tuple(names), pooling=pooling, target_mean=3.0, target_std=2.0)
    outputs = task.predict(TEXTS)
    assert outputs.shape == (32, len(names))
    assert outputs.dtype == np.float32
    expected = task(task.preprocessor(TEXTS), training=False)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    task.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(TEXTS), outputs)
    assert again.class_names == tuple(names)


def test_probabilities_sum_to_one_and_scores_need_not():
    np.testing.assert_allclose(tiny_task().predict(TEXTS).sum(axis=1), 1, atol=1e-5)
    assert not np.allclose(tiny_task("multi_label", ("a", "b")).predict(TEXTS).sum(axis=1), 1)


def test_views_share_the_task_s_variables():
    task = tiny_task()
    ids = task.preprocessor(TEXTS)
    logits = task.network(ids)
    np.testing.assert_allclose(task.head(task.encoder(ids)), logits, atol=1e-6)
    np.testing.assert_allclose(keras.ops.softmax(logits), task.scorer(ids), atol=1e-6)
    shared = {id(v) for v in task.weights}
    assert {id(v) for v in task.network.weights} <= shared


@pytest.mark.parametrize("kind", ["classification", "multi_label"])
def test_a_temperature_changes_probabilities_but_no_choice(kind, tmp_path):
    task = tiny_task(kind, ("a", "b", "c"))
    before = task.predict(TEXTS)
    ids = task.preprocessor(TEXTS)
    for model in (task, task.scorer):  # traced with the former temperature
        keras.Model.predict(model, ids, verbose=0)
    task.calibrate(2.5)
    after = task.predict(TEXTS)
    logits = np.asarray(task.network(ids)) / 2.5
    expected = keras.ops.softmax(logits) if kind == "classification" else keras.ops.sigmoid(logits)
    np.testing.assert_allclose(after, expected, atol=1e-6)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))
    if kind == "multi_label":
        np.testing.assert_array_equal(after >= 0.5, before >= 0.5)
    for model in (task, task.scorer):
        np.testing.assert_allclose(keras.Model.predict(model, ids, verbose=0), after, atol=1e-6)
    task.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.temperature == 2.5
    np.testing.assert_array_equal(again.predict(TEXTS), after)
    np.testing.assert_array_equal(task.copied().predict(TEXTS), after)


def test_regression_has_nothing_to_calibrate():
    with pytest.raises(ValueError, match="regression"):
        tiny_task("regression", ("stars",)).calibrate(2.0)


def test_mean_pooling_ignores_padding():
    task = tiny_task(pooling="mean")
    alone, beside_a_long_one = task.predict(["bad film"]), task.predict(["bad film", TEXTS[-1]])
    np.testing.assert_allclose(alone[0], beside_a_long_one[0], atol=1e-6)


def test_pairs():
    task = tiny_task()
    first, second = ["good film", "bad"], ["the plot", "a film"]
    outputs = task.predict((first, second))
    assert outputs.shape == (2, 2)
    assert not np.allclose(outputs, task.predict((second, first)), atol=1e-7)


def test_no_texts_give_no_rows():
    assert tiny_task().predict([]).shape == (0, 2)


def test_exact_gelu_is_kept_in_the_file(tmp_path):
    mended, stock = tiny_task(exact_gelu=True), tiny_task()
    stock.set_weights(mended.get_weights())
    for v in mended.backbone.weights:
        v.assign(v * 8)
    stock.set_weights(mended.get_weights())
    assert not np.array_equal(mended.predict(TEXTS), stock.predict(TEXTS))
    mended.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(TEXTS), mended.predict(TEXTS))


def test_backbone_without_pooled_output_is_named():
    import keras_hub

    backbone = keras_hub.models.DistilBertBackbone(
        vocabulary_size=16, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=8
    )
    with pytest.raises(UserError, match=r"model\.pooling.*DistilBertBackbone"):
        TextTask(backbone, tiny_preprocessor(), "classification", ("a", "b"), pooling="backbone")


def test_users_can_fit_it_as_any_keras_model():
    task = TextTask(tiny_backbone(), tiny_preprocessor(), "classification", ("a", "b"))
    texts, labels = tiny_texts()
    task.compile("adam", "sparse_categorical_crossentropy")
    history = task.fit(np.array(texts, object), labels, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
