import keras
import numpy as np
import pytest

from tf_finetune.errors import UserError
from tf_finetune.optim.optimizers import LayerwiseAdamW
from tf_finetune.optim.schedules import SCHEDULES, PiecewiseLinear, rate_schedule

NAMES = [name for name in SCHEDULES if name != "plateau"]


def rates(name, peak, warmup, total):
    schedule = rate_schedule(name, peak, warmup, total)
    return np.array([float(schedule(step)) for step in range(total + 20)])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("linear", {0: 0.25, 1: 0.5, 2: 0.75, 3: 1.0, 8: 2 / 7, 9: 1 / 7, 10: 0.0, 11: 0.0}),
        # 1 + cos of 1/7, 4/7 and 6/7 of pi, halved
        ("cosine", {0: 0.25, 2: 0.75, 3: 1.0, 4: 0.950484, 7: 0.388740, 9: 0.049516, 10: 0.0}),
        # a tenth of the peak after 4/5 of the 7 updates from the peak: at 8.6
        ("one_cycle", {0: 0.25, 2: 0.75, 3: 1.0, 5: 1 - 0.9 * 2 / 5.6, 9: 0.1 / 1.4, 10: 0.0}),
        ("constant", {0: 0.25, 2: 0.75, 3: 1.0, 4: 1.0, 10: 1.0, 1000: 1.0}),
        # equation 3 of Howard & Ruder 2018 with cut = 3, ratio = 32
        ("slanted_triangular", {0: 1 / 32, 1: (1 + 31 / 3) / 32, 3: 1.0, 10: 1 / 32, 11: 1 / 32}),
    ],
)
def test_values_by_hand_of_three_warmup_and_ten_updates(name, values):
    schedule = rate_schedule(name, 1.0, 3, 10)
    found = {step: float(schedule(step)) for step in values}
    assert found == pytest.approx(values, abs=1e-6)


def test_slanted_triangular_is_the_paper_s_equation():
    total, cut, ratio, peak = 200, 20, 32, 0.01

    def paper(t):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (total / cut - 1))
        return peak * (1 + p * (ratio - 1)) / ratio

    expected = [paper(t) for t in range(total)]
    found = rates("slanted_triangular", peak, cut, total)[:total]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 40), (1, 40), (13, 40), (39, 40)])
def test_has_its_peak_at_the_end_of_warmup_and_is_never_below_zero(name, warmup, total):
    found = rates(name, 0.2, warmup, total)
    assert found[warmup] == found.max() == np.float32(0.2)
    assert found.min() >= 0.0
    assert np.all(found[:total] > 0)
    assert np.all(np.diff(found[: warmup + 1]) > 0)
    assert np.all(np.diff(found[warmup:]) <= 0)


@pytest.mark.parametrize("name", NAMES)
def test_is_continuous(name):
    # The steepest of them is half a cosine: pi / 2 times as steep as its chord.
    steepest = max(1 / 200, np.pi / 2 / 800) * 1.01
    assert np.abs(np.diff(rates(name, 1.0, 200, 1000))).max() < steepest


@pytest.mark.parametrize("name", NAMES)
def test_comes_back_from_its_configuration(name):
    schedule = rate_schedule(name, 0.3, 2, 9)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    for step in range(12):
        assert float(again(step)) == float(schedule(step))


def test_points_are_met_exactly():
    schedule = PiecewiseLinear([2, 4, 8], [0.1, 0.7, 0.3])
    assert [float(schedule(s)) for s in (0, 2, 4, 8, 9)] == pytest.approx([0.1, 0.1, 0.7, 0.3, 0.3])


def test_a_schedule_cannot_be_lowered_by_hand_and_the_rate_of_a_plateau_can():
    with pytest.raises(TypeError, match="not settable"):
        LayerwiseAdamW(rate_schedule("constant", 0.1, 0, 9)).learning_rate = 0.05
    optimizer = LayerwiseAdamW(0.1)
    optimizer.learning_rate = 0.05
    assert float(optimizer.learning_rate.numpy()) == np.float32(0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosin", 0.1, 0, 9), r'schedule is "cosin"; allowed: .*Did you mean "cosine"\?'),
        (("plateau", 0.1, 0, 9), r"ReduceLROnPlateau.*learning_rate to 0\.1"),
        (("linear", 0.0, 0, 9), "peak is 0.0"),
        (("linear", float("nan"), 0, 9), "peak is nan"),
        (("linear", 0.1, 9, 9), r"warmup_steps is 9, but there are 9 updates.*train longer"),
        (("linear", 0.1, 10, 9), "warmup_steps is 10"),
        (("linear", 0.1, -1, 9), "warmup_steps is -1"),
        (("linear", 0.1, 0, 0), "there are 0 updates"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        rate_schedule(*arguments)
