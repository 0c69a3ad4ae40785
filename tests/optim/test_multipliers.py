import keras
import numpy as np
import pytest

from tf_finetune.errors import UserError
from tf_finetune.model.naming import variable_names
from tf_finetune.optim.multipliers import Multipliers
from tf_finetune.optim.optimizers import LayerwiseAdamW


def variables(count):
    return [keras.Variable(np.ones(2, "float32"), name=f"v{i}") for i in range(count)]


def towers(sequential=False):
    """A model of two nested models, all of whose layers are called the same."""
    inputs = keras.Input((2,))
    both = []
    for _ in range(2):
        layer = keras.layers.Dense(2, name="d")
        both.append(
            keras.Sequential([keras.Input((2,)), layer])
            if sequential
            else keras.Model(inputs, layer(inputs))
        )
    return keras.Model(inputs, both[1](both[0](inputs)) * 1.0), both


@pytest.mark.parametrize("sequential", [False, True])
def test_variables_of_one_path_have_factors_of_their_own_also_from_a_file(tmp_path, sequential):
    model, (first, second) = towers(sequential)
    pairs = [(v, f) for inner, f in ((first, 0.1), (second, 0.7)) for v in inner.variables]
    model.compile(LayerwiseAdamW(0.1, multipliers=[("bias", 3.0), *pairs]), "mse")
    x = np.ones((4, 2))
    model.fit(x, x, verbose=0)
    np.testing.assert_array_equal(model.optimizer._factors, [0.1, 3.0, 0.7, 3.0])
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert variable_names(again.variables) == ["d/kernel", "d/bias", "d/kernel#2", "d/bias#2"]
    np.testing.assert_array_equal(again.optimizer._factors, [0.1, 3.0, 0.7, 3.0])
    for m in (model, again):
        m.fit(x, x, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], again.get_weights()[0])


def test_variables_of_one_path_that_a_configuration_cannot_tell_apart_are_refused():
    model, (first, second) = towers()
    pairs = [(first.layers[-1].kernel, 0.1), (second.layers[-1].kernel, 0.7)]
    optimizer = LayerwiseAdamW(0.1, multipliers=pairs)
    unbuilt = optimizer.get_config()
    optimizer.build(second.trainable_variables)
    np.testing.assert_array_equal(optimizer._factors, [0.7, 1.0])
    same = LayerwiseAdamW.from_config(optimizer.get_config())
    same.build(second.trainable_variables)
    np.testing.assert_array_equal(same._factors, [0.7, 1.0])
    for config in (optimizer.get_config(), unbuilt):
        with pytest.raises(UserError, match=r"2 factors for the path d/kernel, 2 variables"):
            LayerwiseAdamW.from_config(config).build(model.trainable_variables)


def test_a_configuration_keeps_the_factors_of_variables_that_do_not_train_yet():
    lower, upper = variables(2)
    optimizer = LayerwiseAdamW(0.1, multipliers=[(lower, 0.1), (upper, 0.7)])
    optimizer.build([upper])
    again = LayerwiseAdamW.from_config(optimizer.get_config())
    assert again.get_config()["multipliers"] == optimizer.get_config()["multipliers"]
    again.build([lower, upper])
    np.testing.assert_array_equal(again._factors, [0.1, 0.7])
    once_more = LayerwiseAdamW.from_config(again.get_config())
    once_more.build([lower])
    np.testing.assert_array_equal(once_more._factors, [0.1])


def test_the_first_match_counts():
    made = variables(3)
    pairs = [("v0", 0.5), (made[1], 0.2), ("v[01]", 3.0), (made[1], 7.0)]
    np.testing.assert_array_equal(Multipliers(pairs).factors(made), [0.5, 0.2, 1.0])


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("a", -0.5), "factor must be finite and at least 0"),
        (("a", float("nan")), "multiplies the rate by nan"),
        (("a", float("inf")), "multiplies the rate by inf"),
        (("a(", 0.5), r"multipliers\[1\] is .*unterminated"),
        (("a", "fast"), "could not convert"),
        ("a", "give a regular expression"),
        ((3, 0.5), "is for 3; give"),
    ],
)
def test_wrong_multipliers_are_refused(pair, message):
    with pytest.raises(UserError, match=message):
        LayerwiseAdamW(0.1, multipliers=[("fine", 1.0), pair])
