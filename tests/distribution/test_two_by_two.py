"""Two processes of two devices each train as one device does."""

import pytest

from tests.distribution import cases, rows
from tests.distribution.processes import cluster, named, outcomes
from tests.distribution.test_parity import assert_equal, assert_near, of

pytestmark = pytest.mark.slow

# A batch of one row, as in `few_rows`, is there for one of four replicas.
CASES = [case.__name__ for case in (*cases.PARITY, cases.gone_back)]


@pytest.fixture(scope="module")
def four_replicas(tmp_path_factory):
    names = named(*cases.PARITY, cases.gone_back, cases.put_back, *rows.COUNTED)
    return outcomes("two_by_two", names, tmp_path_factory.mktemp("four"), cluster(2))


@pytest.mark.parametrize("case", CASES)
def test_four_replicas_train_as_one_device(case, one_device, four_replicas):
    first, second = four_replicas
    assert_equal(of(second, case, ""), of(first, case, ""))
    assert_near(of(first, case, "weight"), of(one_device, case, "weight"), 1e-6)
    assert_near(of(first, case, "history"), of(one_device, case, "history"), 1e-5)


def test_metrics_go_on_from_what_was_read_of_them(four_replicas):
    for found in four_replicas:
        for name, value in of(found, "put_back", "").items():
            assert value.tobytes() == found[name.replace("put_back", "adamw")].tobytes(), name


@pytest.mark.parametrize("kind", [case.__name__ for case in rows.COUNTED])
def test_each_row_counts_once_an_epoch(kind, four_replicas):
    for found in four_replicas:
        assert found[f"{kind}/counts"].tolist() == [2.0] * rows.ROWS
