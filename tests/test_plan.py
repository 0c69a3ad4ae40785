"""What `plan` says; that it changes nothing is seen in test_train.py."""

import re

import pytest

from tests import runs
from tests.runs import config_for
from tf_finetune.config import Phase
from tf_finetune.fit import planned_cuts
from tf_finetune.plan import plan


@pytest.fixture(scope="module")
def planned(preset, tmp_path_factory):
    """The plan of a run that begins with more than the head, by phase."""
    folder = tmp_path_factory.mktemp("plan")
    phases = (
        Phase(train="last:1", epochs=3, learning_rate=2e-4),
        Phase(name="everything", epochs=2, learning_rate=1e-5),
    )
    config = config_for(preset, phases=phases, global_batch=20, export=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", None)
        text = plan(config, runs.classes())
    return text, folder


def test_each_phase_has_its_parameters_updates_and_rate(planned):
    text, _ = planned
    columns = r"^(\S+) +([\d,]+) +([\d,]+) +([\d,]+) +(\S+) +([\d.]+) +([\d.]+) (?:s|min)"
    columns += r" +([\d.]+) GB +([\d.,]+) MB$"
    found = {name: rest for name, *rest in re.findall(columns, text, re.MULTILINE)}
    assert list(found) == ["probe-baseline", "last:1", "everything"]
    counts = {name: [int(n.replace(",", "")) for n in rest[:3]] for name, rest in found.items()}
    block = 4 * (16 * 16 + 16) + 2 * 32 + 16 * 32 + 32 + 32 * 16 + 16
    total = sum(counts["everything"][:2])
    assert counts["probe-baseline"] == [34, total - 34, 2 * 3]
    assert counts["last:1"] == [34 + block, total - 34 - block, 3 * 3]
    assert counts["everything"] == [total, 0, 2 * 3]
    assert [rest[3] for rest in found.values()] == ["3.0e-03", "2.0e-04", "1.0e-05"]
    # A process with TensorFlow in it; phases share it, so the most never falls.
    memory = [float(rest[6]) for rest in found.values()]
    assert memory == sorted(memory)
    assert 0.2 < memory[0] < 24
    # The best weights: of the head alone where that is all that runs.
    disk = [float(rest[7].replace(",", "")) for rest in found.values()]
    assert disk == [0.0, *[round(4 * total / 1e6, 1)] * 2]


def test_the_whole_is_estimated_and_the_data_are_reported(planned):
    text, _ = planned
    assert re.search(r"estimated: \d+ s of training.*memory [\d.]+ GB", text)
    (disk,) = re.findall(r"disk up to ([\d.,]+) MB in the run folder", text)
    # A file of the head alone, one for each phase, the model and the export, checkpoints.
    (total,) = re.findall(r"^everything +([\d,]+)", text, re.MULTILINE)
    weights = 4 * (34 + (2 + 2 + 12) * int(total.replace(",", ""))) / 1e6
    assert weights - 0.05 < float(disk) < weights + 0.15
    assert "data: train 46, validation 16, test 16 rows" in text
    assert "# Data report" in text


def test_nothing_is_left_behind(planned):
    # TensorFlow writes the source of what it traces into the same folder.
    left = [path.name for path in planned[1].rglob("*") if "autograph" not in path.name]
    assert left == []


def test_what_it_takes_to_keep_activations_and_what_it_brings(preset, monkeypatch):
    phases = (Phase(train="last:1", epochs=1), Phase(train="last:1", epochs=3, learning_rate=2e-4))
    given = {"phases": phases, "probe_baseline": False, "cache_precision": "bfloat16"}
    config = config_for(preset, **given)
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 1, "GPU": 1})
    text = plan(config, runs.classes())
    (line,) = re.findall(r"^phase last:1: (.*activations.*)$", text, re.MULTILINE)
    assert re.search(r"kept,? \(?[\d.]+ MB, made in \d+ s", line)
    assert "phase last:1: the model is not cut: one epoch computes it once" in text
