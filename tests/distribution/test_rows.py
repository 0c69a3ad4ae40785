"""Each row trains once an epoch, whatever the data are."""

import numpy as np
import pytest

from tests.distribution import rows
from tf_finetune.fit.replicas import NOT_THE_SAME

KINDS = [case.__name__ for case in rows.COUNTED]


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_counts_once_an_epoch(kind, one_device, two_devices, two_workers):
    for found in (one_device, two_devices, *two_workers):
        np.testing.assert_array_equal(found[f"{kind}/counts"], np.full(rows.ROWS, 2.0))


def test_each_row_comes_from_one_server(two_devices):
    np.testing.assert_array_equal(two_devices["of_a_service/counts"], np.full(rows.ROWS, 2.0))


def test_workers_that_read_different_batches_are_told(two_workers):
    for found in two_workers:
        assert str(found["unequal/said"]).endswith(NOT_THE_SAME)
