import numpy as np
import pytest
from scipy.special import expit

from tf_finetune.results import calibration


def made(task, temperature=1.0, n=20_000, k=3, seed=0):
    """Logits whose probabilities come true, times a temperature, and labels drawn by them."""
    random = np.random.default_rng(seed)
    true = random.normal(0, 2, (n, k))
    shares = calibration.probabilities(task, true)
    if task == "multi_label":
        return true * temperature, (random.random((n, k)) < shares).astype("float32")
    labels = (random.random((n, 1)) > shares.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return true * temperature, labels


@pytest.mark.parametrize("task", ["classification", "multi_label"])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(task, temperature):
    logits, labels = made(task, temperature)
    found = calibration.fit_temperature(task, logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    account = calibration.account(task, logits, labels, found)
    assert account["after"]["ece"] < 0.015
    if temperature == 1.0:
        assert account["before"]["ece"] < 0.015
    else:
        assert account["before"]["ece"] > 0.05
        assert account["after"]["log_loss"] < account["before"]["log_loss"]


def test_the_error_by_hand():
    # Three rows sure by 0.9, two of them right; one sure by 0.55, wrong.
    outputs = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.55, 0.45]])
    labels = np.array([0, 1, 1, 1])
    expected = 3 / 4 * abs(0.9 - 2 / 3) + 1 / 4 * 0.55
    assert calibration.error("classification", outputs, labels) == pytest.approx(expected)
    rows = calibration.reliability("classification", outputs, labels)
    assert [row["rows"] for row in rows] == [1, 3]
    assert all(row["low"] <= row["confidence"] <= row["high"] for row in rows)


@pytest.mark.parametrize("task", ["classification", "multi_label"])
@pytest.mark.parametrize("n", [100, 2000])
def test_chance_alone_is_what_models_show_whose_probabilities_are_right(task, n):
    shown, told = [], []
    for seed in range(200):
        logits, labels = made(task, n=n, seed=seed)
        outputs = calibration.probabilities(task, logits)
        shown.append(calibration.error(task, outputs, labels))
        if seed < 5:
            told.append(calibration.by_chance(task, outputs))
    mean = np.mean([found["mean"] for found in told])
    most = np.mean([found["most"] for found in told])
    assert np.mean(shown) == pytest.approx(mean, rel=0.1)
    assert 0.9 <= np.mean(np.array(shown) <= most) <= 0.99
    off, labels = made(task, temperature=3.0, n=n)
    outputs = calibration.probabilities(task, off)
    assert calibration.error(task, outputs, labels) > calibration.by_chance(task, outputs)["most"]


def test_each_of_several_labels_is_a_choice_of_its_own():
    outputs = np.array([[0.9, 0.2]])
    found = calibration.error("multi_label", outputs, np.array([[1.0, 1.0]]))
    assert found == pytest.approx((0.1 + 0.8) / 2)


def test_full_certainty_belongs_to_the_last_bin():
    rows = calibration.reliability("classification", np.array([[1.0, 0.0]]), np.array([0]))
    assert [(row["rows"], row["high"]) for row in rows] == [(1, 1.0)]


def test_where_all_is_right_nothing_is_learnt():
    logits = np.array([[3.0, 0.0], [0.0, 1.0]])
    assert calibration.fit_temperature("classification", logits, np.array([0, 1])) == 1.0


def test_far_logits_overflow_nowhere():
    logits = np.array([[2000.0, 0.0], [0.0, 2000.0], [2000.0, 0.0]])
    labels = np.array([0, 1, 1])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(calibration.log_loss("classification", logits, labels))
        assert calibration.fit_temperature("classification", logits, labels) == pytest.approx(
            20, rel=1e-3
        )
        calibration.log_loss("multi_label", logits, np.eye(2)[labels])


@pytest.mark.parametrize("task", ["classification", "multi_label"])
def test_probabilities_alone_are_recalibrated_as_their_logits(task):
    logits, labels = made(task, 1.5)
    half = {"validation": labels[:10_000], "test": labels[10_000:]}
    shares = {
        "validation": calibration.probabilities(task, logits[:10_000]).astype("float32"),
        "test": calibration.probabilities(task, logits[10_000:]).astype("float32"),
    }
    found = calibration.recalibrated(task, shares, half)["test"]
    temperature = calibration.fit_temperature(task, logits[:10_000], labels[:10_000])
    expected = calibration.probabilities(task, logits[10_000:], temperature)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    if task == "multi_label":
        np.testing.assert_allclose(expected, expit(logits[10_000:] / temperature))


def test_the_section_tells_before_and_after():
    logits, labels = made("classification", 3.0, n=2000)
    card = {"calibration": calibration.account("classification", logits, labels, 3.0)}
    text = calibration.section(card)
    before, after = (card["calibration"][when]["ece"] for when in ("before", "after"))
    assert (
        f"Calibration error {after:.3f}, before {before:.3f}: logits are divided by 3.000" in text
    )
    assert "| 93% and 100% |" in text
    by_chance = card["calibration"]["by_chance"]
    assert f"no more than {by_chance['most']:.3f}." in text
    card = {"calibration": calibration.account("classification", logits, labels, 1.0)}
    assert "divided" not in calibration.section(card)
    assert calibration.section({}) == ""


def test_shares_of_classes_are_how_sure_a_model_should_be():
    shares = np.random.default_rng(0).dirichlet([2, 2, 1], 400)
    logits, labels = np.log(shares), shares.argmax(axis=1)
    assert calibration.error("classification", shares, shares) == pytest.approx(0, abs=1e-12)
    found = calibration.fit_temperature("classification", 3 * logits, shares)
    assert found == pytest.approx(3, rel=1e-3)
    for temperature in (0.5, 2.0):
        whole = calibration.log_loss("classification", logits, np.eye(3)[labels], temperature)
        assert whole == calibration.log_loss("classification", logits, labels, temperature)


def test_of_shares_no_error_is_put_down_to_chance():
    """They scatter less than draws of a class do."""
    shares = np.random.default_rng(0).dirichlet([1, 1, 1], 500)
    found = calibration.account("classification", np.log(shares), shares, 1.0)
    assert found["after"]["ece"] == pytest.approx(0)
    assert "by_chance" not in found
    text = calibration.section({"calibration": found})
    assert "by chance" not in text
    assert "against the shares" in text
