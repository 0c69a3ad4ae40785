import numpy as np
import pytest

from tf_finetune.results.drift import cka, relative_l2


def test_drift_is_a_share_of_the_weights_length():
    before = [np.array([3.0, 0.0]), np.array([[4.0]])]
    assert relative_l2(before, before) == 0.0
    after = [np.array([3.0, 0.5]), np.array([[4.0]])]
    assert relative_l2(before, after) == pytest.approx(0.1)
    assert relative_l2([np.zeros(2)], [np.ones(2)]) == 0.0


def test_alikeness_is_that_of_the_shape_not_of_the_axes():
    random = np.random.default_rng(0)
    one = random.normal(size=(60, 8))
    turned, _ = np.linalg.qr(random.normal(size=(8, 8)))
    assert cka(one, 3 * one @ turned + 7) == pytest.approx(1.0)
    noisy = one + random.normal(size=one.shape)
    assert 0.2 < cka(one, noisy) < 0.8


def test_more_columns_than_rows_do_not_feign_alikeness():
    random = np.random.default_rng(1)
    found = [cka(random.normal(size=(40, 400)), random.normal(size=(40, 400))) for _ in range(20)]
    assert abs(np.mean(found)) < 0.05


def test_too_little_to_compare():
    assert cka(np.eye(3), np.eye(3)) is None
    assert cka(np.ones((9, 2)), np.random.default_rng(0).normal(size=(9, 2))) is None
