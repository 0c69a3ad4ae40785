"""The same training on one device, on two, and in two processes."""

import numpy as np
import pytest

from tests.distribution import cases

PARITY = [case.__name__ for case in cases.PARITY]


def of(arrays, case, kind):
    return {k: v for k, v in arrays.items() if k.startswith(f"{case}/{kind}")}


def assert_near(found, expected, tolerance):
    assert found.keys() == expected.keys() != set()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance, err_msg=name)


def assert_equal(found, expected):
    assert found.keys() == expected.keys() != set()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("case", PARITY)
def test_two_devices_train_as_one(case, one_device, two_devices):
    assert_near(of(two_devices, case, "weight"), of(one_device, case, "weight"), 1e-6)
    assert_near(of(two_devices, case, "history"), of(one_device, case, "history"), 1e-5)


@pytest.mark.parametrize("case", PARITY)
def test_two_processes_train_as_one_device(case, one_device, two_workers):
    for worker in two_workers:
        assert_near(of(worker, case, "weight"), of(one_device, case, "weight"), 1e-6)
        assert_near(of(worker, case, "history"), of(one_device, case, "history"), 1e-5)


@pytest.mark.parametrize("case", [*PARITY, "dropout", "mixed", "overflow", "gone_back"])
def test_workers_equal_each_other_bit_for_bit(case, two_workers):
    first, second = (of(worker, case, "") for worker in two_workers)
    assert_equal(second, first)


def test_an_overflow_on_one_replica_skips_the_update_on_all(one_device, two_devices, two_workers):
    steps = one_device["overflow/steps"]
    assert 0 < steps[-1] < 10  # of 5 batches an epoch, some of which are too large
    for found in (two_devices, *two_workers):
        np.testing.assert_array_equal(found["overflow/steps"], steps)
        # Half precision rounds the sums of parts otherwise.
        assert_near(of(found, "overflow", "weight"), of(one_device, "overflow", "weight"), 2e-3)


@pytest.mark.parametrize("case", ["dropout", "mixed"])
def test_replicas_draw_numbers_of_their_own(case, one_device, two_devices):
    ours, one = (of(found, case, "weight") for found in (two_devices, one_device))
    assert any(abs(ours[name] - one[name]).max() > 1e-3 for name in one)


def test_a_bad_row_of_one_replica_is_undone_on_all(one_device, two_devices, two_workers):
    skipped = one_device["gone_back/said"].tolist()
    assert len(skipped) == 3  # once an epoch
    for found in (two_devices, *two_workers):
        assert found["gone_back/said"].tolist() == skipped
        assert_near(of(found, "gone_back", "weight"), of(one_device, "gone_back", "weight"), 1e-6)
        assert_near(of(found, "gone_back", "history"), of(one_device, "gone_back", "history"), 1e-5)


def test_metrics_go_on_from_what_was_read_of_them(one_device, two_devices, two_workers):
    for found in (one_device, two_devices, *two_workers):
        for name, value in of(found, "put_back", "").items():
            assert value.tobytes() == found[name.replace("put_back", "adamw")].tobytes(), name


def test_outputs_are_in_order_on_every_worker(one_device, two_devices, two_workers):
    for found in (two_devices, *two_workers):
        np.testing.assert_allclose(
            found["outputs/outputs"], one_device["outputs/outputs"], atol=1e-6
        )


def test_replicas_that_drift_apart_are_found(one_device, two_devices, two_workers):
    assert str(one_device["diverged/said"]) == ""
    for found in (two_devices, *two_workers):
        assert "2 replicas no longer have the same weights" in str(found["diverged/said"])


def test_refusals_under_a_strategy(one_device, two_devices, two_workers):
    for name in ("unsynchronised", "own_step", "mean_by_weight", "added_loss"):
        assert str(one_device[f"{name}/said"]) == ""
        for found in (two_devices, *two_workers):
            words = str(found[f"{name}/said"])
            assert cases.REFUSED[name] in words, words


def test_rows_of_every_type_are_gathered_bit_for_bit(one_device, two_devices, two_workers):
    for found in (two_devices, *two_workers):
        assert_equal(of(found, "gathered", ""), of(one_device, "gathered", ""))


def test_arrays_are_kept_under_a_strategy_too(one_device, two_devices, two_workers):
    for found in (one_device, two_devices, *two_workers):
        assert len(found["kept/said"]) == 1
