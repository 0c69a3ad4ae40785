"""The recipes for pairs, several labels and a number, on what their script writes of reviews."""

import collections
import json
import re
import subprocess
import sys

import pytest

from tests.test_end_to_end import ROOT, tf_finetune

pytestmark = pytest.mark.real

SMALL = {
    # Pairs are learnt by more rows than a test has time for: of 4,000, 62% of others are right.
    "pairs": ("--config.data.limit=500", "--config.phases=probe"),
    "aspects": ("--config.phases=probe", "--config.data.limit=1000"),
    "ratings": ("--config.phases=probe", "--config.model.sequence_length=64"),
}
# By what each is judged, and how much better than one that knows the labels alone it must be.
FIGURES = {"aspects": ("micro_f1", 0.1), "ratings": ("mae", -0.3)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("review_tasks")
    command = [sys.executable, "examples/write_review_tasks.py", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def rows_of(folder, name):
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_what_is_written_is_what_it_says(written):
    groups = collections.defaultdict(list)
    for row in rows_of(written, "pairs"):
        groups[row["group"]].append(row)
    for four in groups.values():
        assert [row["relation"] for row in four] == ["same", "same", "other", "other"]
        assert {row["first"] for row in four[:2]} == {row["first"] for row in four[2:]}
        assert {row["second"] for row in four[:2]} == {row["second"] for row in four[2:]}
        assert not {(r["first"], r["second"]) for r in four[:2]} & {
            (r["first"], r["second"]) for r in four[2:]
        }
    named = collections.Counter(len(row["aspects"]) for row in rows_of(written, "aspects"))
    assert named[0]
    assert named[1] > named[2] > named[3] > 0
    ratings = rows_of(written, "ratings")
    assert len({row["points"] for row in ratings}) > 5
    assert all(0 <= row["points"] <= 10 for row in ratings)
    assert not any(re.search(r"\d ?(/|out of) ?10\b", row["review"]) for row in ratings)


@pytest.fixture(scope="module", params=SMALL)
def run(request, written, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "run"
    tf_finetune(
        f"--config=configs/review_{request.param}.py",
        f"--workdir={folder}",
        f"--config.data.path={written / request.param}.jsonl",
        *SMALL[request.param],
    )
    return request.param, folder


def test_a_recipe_trains_and_learns_more_than_its_baseline_knows(run):
    name, folder = run
    card = json.loads((folder / "metrics.json").read_text())
    assert card["export"]["max_difference"] < 1e-5
    if name in FIGURES:
        figure, gain = FIGURES[name]
        ahead = card["test"][figure] - card["baselines"]["majority"][figure]
        assert ahead / gain > 1


def test_a_file_of_its_columns_is_predicted(run, written, tmp_path):
    name, folder = run
    rows = rows_of(written, name)[:3]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    given = f"--input={tmp_path / 'some.jsonl'}", f"--output={out}"
    tf_finetune("--mode=predict", f"--workdir={folder}", *given)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    keys = {"pairs": "label", "aspects": "labels", "ratings": "value"}
    assert [keys[name] in row for row in found] == [True] * 3
