import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.fit.phased import fit_phases

X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def fitted(steps_per_execution, *, endless, **options):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    train = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    result = fit_phases(
        model,
        train.repeat() if endless else train,
        (X, Y),
        [Phase(train="all", epochs=3, learning_rate=1e-2)],
        loss="mse",
        steps_per_execution=steps_per_execution,
        steps_per_epoch=5 if endless else None,
        say=lambda line: None,
        **options,
    )
    return model.get_weights(), result.history


@pytest.mark.parametrize("endless", [True, False])
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_an_epoch_has_its_own_updates_and_no_more(endless, size):
    weights, history = fitted(1, endless=endless)
    found, again = fitted(size, endless=endless)
    assert [row["step"] for row in again] == [row["step"] for row in history] == [5, 10, 15]
    for a, b in zip(weights, found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(history, again, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("value", "message"),
    [(0, "is 0; it must be at least 1"), (2.5, "is 2.5; it must be a whole number")],
)
def test_mistakes(value, message):
    with pytest.raises(UserError, match=f"steps_per_execution {message}"):
        fitted(value, endless=False)
