import keras
import numpy as np
import pytest

from tf_finetune.errors import UserError
from tf_finetune.fit.interpolation import interpolate


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.full((1, 1), 10.0)])
    return model


START = [np.zeros((1, 1), "float32")]


def value(model):
    return float(model.get_weights()[0][0, 0])


def test_the_best_point_on_the_line_is_chosen(model):
    found = interpolate(model, START, lambda: -abs(value(model) - 4.1))
    assert found.share == 0.4
    assert value(model) == pytest.approx(4)
    assert [row["share"] for row in found.sweep] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert found.sweep[1]["score"] == pytest.approx(-2.1)


def test_the_more_fine_tuned_of_equals_wins_and_is_bit_identical(model):
    before = model.get_weights()
    assert interpolate(model, START, lambda: 1.0, points=(0.3, 1, 0.6)).share == 1
    assert np.array_equal(model.get_weights()[0], before[0])


def test_the_floor_holds(model):
    found = interpolate(
        model, START, lambda: value(model), retained=lambda: 10 - value(model), floor=5.0
    )
    assert found.share == 0.4
    assert found.sweep[-1] == {"share": 1.0, "score": 10.0, "retained": 0.0}


def test_where_no_point_reaches_the_floor_the_one_that_retains_most_is_taken(model):
    kept = {"retained": lambda: 10 - value(model), "floor": 11.0}
    found = interpolate(model, START, lambda: value(model), **kept)
    assert (found.share, found.floor_reached, value(model)) == (0.0, False, 0.0)
    assert interpolate(model, START, lambda: 0.0).floor_reached


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": ()}, "points is"),
        ({"points": (0.5, 1.5)}, "shares from 0 to 1"),
        ({"floor": 1.0}, "not retained"),
        ({"start": []}, "not of this model's 1 shapes"),
    ],
)
def test_mistakes(model, options, message):
    with pytest.raises(UserError, match=message):
        interpolate(model, options.pop("start", START), lambda: 0.0, **options)
    assert value(model) == 10
