"""Whole runs on one device, on two, and in two processes."""

import csv
import functools
import json
import sys

import numpy as np
import pytest

from tests.distribution import whole_runs
from tests.distribution.processes import cluster, environment, named, outcomes, together
from tests.distribution.test_parity import assert_equal, assert_near, of
from tests.runs import classes, save_preset

CASES = named(whole_runs.tuned, whole_runs.gradual, whole_runs.adapters, whole_runs.half)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return save_preset(tmp_path_factory.mktemp("still") / "tiny.keras", dropout=0.0)


@pytest.fixture(scope="module")
def alone(file, tmp_path_factory):
    around = [environment(**{whole_runs.PRESET: str(file)})]
    return outcomes("none", CASES, tmp_path_factory.mktemp("one"), around)[0]


@pytest.fixture(scope="module")
def devices(file, tmp_path_factory):
    around = environment(TF_FINETUNE_LOGICAL_CPUS="2", **{whole_runs.PRESET: str(file)})
    return outcomes("mirrored", CASES, tmp_path_factory.mktemp("two"), [around])[0]


@pytest.fixture(scope="module")
def workers(file, tmp_path_factory):
    """What two workers came to in a case, in processes of its own: each takes part in one run."""

    @functools.cache
    def found(case):
        around = cluster(2, **{whole_runs.PRESET: str(file)})
        folder = tmp_path_factory.mktemp("workers")
        return outcomes("multi_worker", [f"whole_runs.{case}"], folder, around)

    return found


@pytest.mark.parametrize("case", ["tuned", "gradual", "adapters", "half"])
def test_a_run_ends_the_same(case, alone, devices, workers):
    # Half precision rounds the sums of parts otherwise.
    tolerance = 1e-2 if case == "half" else 1e-6
    for found in (devices, *workers(case)):
        assert_near(of(found, case, "weight"), of(alone, case, "weight"), tolerance)
        assert_near(of(found, case, "history"), of(alone, case, "history"), 10 * tolerance)
        assert_near(of(found, case, "outputs"), of(alone, case, "outputs"), 10 * tolerance)
        assert_near(of(found, case, "card"), of(alone, case, "card"), 10 * tolerance)


@pytest.mark.parametrize("case", ["tuned", "gradual", "adapters", "half"])
def test_the_chief_alone_writes_and_speaks(case, alone, devices, workers):
    chief, other = workers(case)
    assert_equal(of(chief, case, "weight"), of(other, case, "weight"))
    for found in (devices, chief):
        assert found[f"{case}/files"].tolist() == alone[f"{case}/files"].tolist()
        assert len(found[f"{case}/said"]) == len(alone[f"{case}/said"])
    assert other[f"{case}/files"].tolist() == other[f"{case}/said"].tolist() == []


def test_the_command_line_on_two_workers(file, tmp_path):
    table = classes(75)
    with (tmp_path / "texts.csv").open("w", newline="") as out:
        csv.writer(out).writerows([table.keys(), *zip(*table.values(), strict=True)])
    command = [
        *(sys.executable, "-m", "tf_finetune.main", f"--workdir={tmp_path}/run"),
        f"--config.data.path={tmp_path}/texts.csv",
        f"--config.model.preset={file}",
        "--config.fit.strategy=multi_worker",
        "--config.fit.probe_epochs=2",
        "--config.phases=probe",
        "--config.data.near_duplicates=0",
    ]
    for status, words in together([command, command], cluster(2)):
        assert status == 0, words[-4000:]
    card = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert np.isfinite(card["test"]["accuracy"])
    # The same command once more finds it finished, on both; the chief says so.
    again = together([command, command], cluster(2))
    assert [status for status, _ in again] == [0, 0], again
    assert ["nothing to do" in words for _, words in again] == [True, False]
