import keras
import numpy as np
import pytest

from tf_finetune.errors import UserError
from tf_finetune.fit.interpolation import interpolate, step_back


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.full((1, 1), 10.0)])
    return model


START = [np.zeros((1, 1), "float32")]


def value(model):
    return float(model.get_weights()[0][0, 0])


def test_of_equals_the_nearest_to_the_start_is_chosen(model):
    # As good as at the end, 10, from 4 on.
    found = interpolate(model, START, lambda: -abs(value(model) - 7.0) if value(model) < 4 else 0)
    assert found.share == 0.4
    assert value(model) == pytest.approx(4)
    assert [row["share"] for row in found.sweep] == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert found.sweep[-1]["score"] == pytest.approx(-5)


@pytest.mark.parametrize("retained", [None, lambda: 0.0])
def test_no_gap_is_jumped_over(model, retained):
    scores = {10: 0.9, 8: 0.95, 6: 0.9, 4: 0.8, 2: 0.99, 0: 0.99}
    found = interpolate(model, START, lambda: scores[round(value(model))], retained=retained)
    assert found.share == 0.8
    assert len(found.sweep) == (6 if retained else 3)


def test_where_every_point_is_worse_the_end_stays_bit_identical(model):
    before = model.get_weights()
    assert interpolate(model, START, lambda: value(model), points=(0.3, 1, 0.6)).share == 1
    assert np.array_equal(model.get_weights()[0], before[0])


def test_what_never_moved_stays_as_it_is_to_the_bit():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    end = np.array([[-0.0], [1e-40], [3.0]], "float32")
    model.set_weights([end])
    start = np.array([[-0.0], [1e-40], [1.0]], "float32")
    assert interpolate(model, [start], lambda: 0.0, points=(0.5, 1.0)).share == 0.5
    (found,) = model.get_weights()
    assert found[:2].tobytes() == end[:2].tobytes()
    assert found[2] == 2


def test_the_floor_holds(model):
    found = interpolate(
        model, START, lambda: value(model), retained=lambda: 10 - value(model), floor=5.0
    )
    assert found.share == 0.4
    assert found.sweep[0] == {"share": 1.0, "score": 10.0, "retained": 0.0}
    assert len(found.sweep) == 6


def test_where_no_point_reaches_the_floor_the_one_that_retains_most_is_taken(model):
    kept = {"retained": lambda: 10 - value(model), "floor": 11.0}
    found = interpolate(model, START, lambda: value(model), **kept)
    assert (found.share, found.floor_reached, value(model)) == (0.0, False, 0.0)
    assert interpolate(model, START, lambda: 0.0).floor_reached


@pytest.mark.parametrize("loss", [lambda x: x, lambda x: 1.0], ids=["lower", "the same"])
def test_a_step_back_is_made_where_loss_does_not_rise(model, loss):
    found = step_back(
        model, START, 0.7, lambda: {"score": 0.5, "loss": loss(value(model)), "more": 2.0}
    )
    assert (found.share, value(model)) == (0.7, pytest.approx(7))
    assert [row["share"] for row in found.sweep] == [1.0, 0.7]
    assert found.sweep[1] == {
        "share": 0.7,
        "score": 0.5,
        "loss": pytest.approx(loss(7.0)),
        "more": 2.0,
    }


@pytest.mark.parametrize("loss", [lambda x: -x, lambda x: float("nan") if x < 9 else 0.0])
def test_where_loss_rises_the_end_stays_bit_identical(model, loss):
    before = model.get_weights()
    found = step_back(model, START, 0.7, lambda: {"score": 0.5, "loss": loss(value(model))})
    assert found.share == 1
    assert np.array_equal(model.get_weights()[0], before[0])


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
