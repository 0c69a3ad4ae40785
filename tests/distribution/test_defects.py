"""Keras still has the defects that are mended here; where one is gone, its mend can go too."""

import sys

import numpy as np
import pytest

from tests.distribution.processes import cluster, together


def differ(found, other, case):
    names = [name for name in other if name.startswith(f"{case}/weight")]
    return max(abs(found[name] - other[name]).max() for name in names) > 1e-4


def test_keras_clips_before_it_adds_up(one_device, two_devices):
    assert differ(two_devices, one_device, "clipped_before")


def test_keras_counts_uneven_parts_alike(one_device, two_devices):
    assert differ(two_devices, one_device, "uneven")


def test_keras_draws_a_batch_to_build_metrics(one_device, two_devices):
    assert not differ(two_devices, one_device, "in_order")
    assert differ(two_devices, one_device, "moved_on")


def test_keras_cannot_run_several_steps_at_a_time(one_device, two_devices):
    assert str(one_device["several_steps/error"]) == ""
    assert "InvalidArgumentError" in str(two_devices["several_steps/error"])


def test_keras_gives_all_replicas_the_same_masks(two_devices):
    assert two_devices["masks/same"]


def test_keras_cannot_fit_over_hosts(two_workers):
    for found in two_workers:
        assert "ValueError: Attempt to convert a value (PerReplica" in str(found["structure/error"])
        assert "ValueError" in str(found["single_numbers/error"])
        assert "Invalid reduction dimension" in str(found["single_numbers/error"])


def test_keras_distribution_does_nothing(one_device):
    assert str(one_device["no_layout/kind"]) == "ResourceVariable"


def test_tensorflow_divides_shuffled_rows_wrongly(two_workers):
    rows = np.concatenate([found["overlapping/rows"] for found in two_workers])
    assert len(rows) == 64
    assert len(set(rows.tolist())) < 64


@pytest.mark.slow
@pytest.mark.parametrize(("whose", "what"), [("theirs", "lost"), ("ours", "heard")])
def test_tensorflow_takes_sigterm_for_itself(whose, what):
    command = [sys.executable, "-m", "tests.distribution.signalled", whose]
    for status, words in together([command, command], cluster(2)):
        assert status == 0, words
        assert f"SIGTERM was {what}" in words
