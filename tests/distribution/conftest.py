"""Each kind of strategy trains once, in processes of its own; tests compare what it came to."""

import pytest

from tests.distribution import cases, defects, rows
from tests.distribution.processes import cluster, environment, named, outcomes


@pytest.fixture(scope="session")
def one_device(tmp_path_factory):
    names = named(
        *cases.ALL,
        *rows.COUNTED,
        defects.clipped_before,
        defects.uneven,
        defects.in_order,
        defects.moved_on,
        defects.several_steps,
        defects.no_layout,
    )
    return outcomes("none", names, tmp_path_factory.mktemp("one"), [environment()])[0]


@pytest.fixture(scope="session")
def two_devices(tmp_path_factory):
    names = named(
        *cases.ALL,
        *rows.COUNTED,
        rows.of_a_service,
        defects.clipped_before,
        defects.uneven,
        defects.in_order,
        defects.moved_on,
        defects.several_steps,
        defects.masks,
    )
    around = [environment(TF_FINETUNE_LOGICAL_CPUS="2")]
    return outcomes("mirrored", names, tmp_path_factory.mktemp("two"), around)[0]


@pytest.fixture(scope="session")
def two_workers(tmp_path_factory):
    """What each of two processes came to."""
    names = named(
        *cases.ALL,
        *rows.COUNTED,
        defects.overlapping,
        defects.structure,
        defects.single_numbers,
        rows.unequal,  # ends the messages between them
    )
    return outcomes("multi_worker", names, tmp_path_factory.mktemp("workers"), cluster(2))
