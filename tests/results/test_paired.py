import numpy as np
import pytest
from scipy.stats import binom

from tf_finetune.results.paired import mcnemar


def test_the_p_value_is_that_of_the_binomial():
    first = np.array([1.0] * 8 + [0.0] * 2 + [1.0] * 50)
    second = np.array([0.0] * 8 + [1.0] * 2 + [1.0] * 50)
    found = mcnemar(first, second)
    assert (found["only_first"], found["only_second"]) == (8, 2)
    assert found["p"] == pytest.approx(2 * binom.cdf(2, 10, 0.5))
    assert mcnemar(second, first) == {"only_first": 2, "only_second": 8, "p": found["p"]}


def test_models_that_are_right_on_the_same_rows_do_not_differ():
    right = np.array([1.0, 0.0, 1.0])
    assert mcnemar(right, right) == {"only_first": 0, "only_second": 0, "p": 1.0}
