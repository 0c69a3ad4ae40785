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
from tests.runs import classes

RUNS = (
    whole_runs.tuned,
    whole_runs.gradual,
    whole_runs.adapters,
    whole_runs.half,
    whole_runs.kept,
    whole_runs.last,
    whole_runs.pictures,
)
EACH = [case.__name__ for case in RUNS]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets")
    whole_runs.save_presets(folder)
    return str(folder)


@pytest.fixture(scope="module")
def alone(presets, tmp_path_factory):
    around = [environment(**{whole_runs.PRESETS: presets})]
    names = named(*RUNS, whole_runs.uncached)
    return outcomes("none", names, tmp_path_factory.mktemp("one"), around)[0]


@pytest.fixture(scope="module")
def devices(presets, tmp_path_factory):
    around = environment(TF_FINETUNE_LOGICAL_CPUS="2", **{whole_runs.PRESETS: presets})
    return outcomes("mirrored", named(*RUNS), tmp_path_factory.mktemp("two"), [around])[0]


@pytest.fixture(scope="module")
def workers(presets, tmp_path_factory):
    """What two workers came to in a case, in processes of its own: each takes part in one run."""

    @functools.cache
    def found(case):
        around = cluster(2, **{whole_runs.PRESETS: presets})
        folder = tmp_path_factory.mktemp("workers")
        return outcomes("multi_worker", [f"whole_runs.{case}"], folder, around)

    return found


@pytest.mark.parametrize("case", EACH)
def test_a_run_ends_the_same(case, alone, devices, workers):
    # Half precision rounds the sums of parts otherwise.
    tolerance = 1e-2 if case == "half" else 1e-6
    for found in (devices, *workers(case)):
        assert_near(of(found, case, "weight"), of(alone, case, "weight"), tolerance)
        assert_near(of(found, case, "history"), of(alone, case, "history"), 10 * tolerance)
        assert_near(of(found, case, "outputs"), of(alone, case, "outputs"), 10 * tolerance)
        assert_near(of(found, case, "card"), of(alone, case, "card"), 10 * tolerance)


@pytest.mark.parametrize("case", EACH)
def test_the_chief_alone_writes_and_speaks(case, alone, devices, workers):
    chief, other = workers(case)
    assert_equal(of(chief, case, "weight"), of(other, case, "weight"))
    for found in (devices, chief):
        assert found[f"{case}/files"].tolist() == alone[f"{case}/files"].tolist()
        assert len(found[f"{case}/said"]) == len(alone[f"{case}/said"])
    assert other[f"{case}/files"].tolist() == other[f"{case}/said"].tolist() == []


def test_each_host_keeps_what_is_frozen(alone, devices, workers):
    for found in (alone, devices, workers("kept")[0]):
        (line,) = [line for line in found["kept/said"] if "trains on kept activations" in line]
        assert line.startswith("phase last: ")
    whole = of(alone, "uncached", "weight")
    for found in (alone, devices, workers("last")[0]):
        assert any("trains on kept activations" in line for line in found["last/said"])
        ours = {k.replace("last", "uncached", 1): v for k, v in of(found, "last", "weight").items()}
        assert_near(ours, whole, 1e-6)
    assert not [line for line in alone["uncached/said"] if "kept activations" in line]


def test_a_run_goes_on_where_the_chief_alone_has_what_was_kept(presets, workers, tmp_path):
    """Each other host writes into a folder that goes away."""
    places, found = [], []
    for batches in (1, 6, 0):
        more = {whole_runs.WORKDIR: str(tmp_path), whole_runs.BATCHES: str(batches)}
        around = cluster(2, **{whole_runs.PRESETS: presets}, **more)
        found = outcomes("multi_worker", ["whole_runs.kept"], tmp_path, around)
        places += [str(found[0]["kept/place"])] if batches else []
    assert ["head" in places[0], "last" in places[1]] == [True, True], places
    for ours, whole in zip(found, workers("kept"), strict=True):
        assert_equal(of(ours, "kept", "weight"), of(whole, "kept", "weight"))


def test_the_command_line_on_two_workers(presets, tmp_path):
    table = classes(75)
    with (tmp_path / "texts.csv").open("w", newline="") as out:
        csv.writer(out).writerows([table.keys(), *zip(*table.values(), strict=True)])
    command = [
        *(sys.executable, "-m", "tf_finetune.main", f"--workdir={tmp_path}/run"),
        f"--config.data.path={tmp_path}/texts.csv",
        f"--config.model.preset={presets}/texts.keras",
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
