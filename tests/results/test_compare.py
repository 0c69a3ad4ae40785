import json
import re

import numpy as np
import pyarrow as pa
import pytest

from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import UserError
from tf_finetune.results import evaluate, tested
from tf_finetune.results.compare import compare
from tf_finetune.results.paired import holm, mcnemar

N = 400
TEXTS = [f"text number {i}" for i in range(N)]
LABELS = (np.arange(N) % 2).astype("int32")


def outputs_with(wrong, labels=LABELS):
    """Probabilities that are right but in some rows."""
    chosen = labels.copy()
    chosen[list(wrong)] = 1 - chosen[list(wrong)]
    return 0.1 + 0.8 * np.eye(2)[chosen]


def make_run(folder, outputs, labels=LABELS, texts=TEXTS, kind="classification", **changes):
    folder.mkdir()
    config = FineTuneConfig()
    config.model.task, config.results.bootstrap = kind, 200
    for name, value in changes.items():
        setattr(config.fit, name, value)
    (folder / "config.json").write_text(config.to_json())
    names = ("value",) if kind == "regression" else ("bad", "good")
    card = {
        "task": kind,
        "class_names": names,
        "test": evaluate.score(kind, outputs, labels, names, bootstrap=200),
        "train_seconds": 12.3,
        "peak_memory_bytes": 1_500_000_000,
        "data_digest": "abc",
    }
    (folder / "metrics.json").write_text(json.dumps(card))
    table = pa.table({"text": list(texts)})
    tested.write(folder, table, np.arange(len(texts)), labels, outputs)
    return folder


def test_runs_are_compared_with_the_first(tmp_path):
    a = make_run(tmp_path / "a", outputs_with(range(60)))
    b = make_run(tmp_path / "b", outputs_with(range(30)), epochs=7)
    c = make_run(tmp_path / "c", outputs_with(range(1, 61)), epochs=7, seed=3)
    text = compare([a, b, c])
    assert "On the same 400 test rows" in text
    assert re.search(rf"\| {b} \| 92.5% \(\d.*\) \|  \| 12 \| 1.50 \|", text)
    better, same = (line for line in text.splitlines() if line.startswith("- "))
    p = mcnemar(np.repeat([1, 0], [30, 370]), np.zeros(400))["p"]
    assert f"`{b}` beside `{a}`: +7.5 points" in better
    assert "; 30 rows it alone has right, 0 the other: McNemar's exact p = " in better
    assert f"p = {p:.2g}, {2 * p:.2g} for 2 comparisons (Holm), more than chance" in better
    assert "+0.0 points" in same
    assert "; 1 rows it alone has right, 1 the other" in same
    assert "which may be chance" in same
    first, second = re.findall(r"```\n(.*?)\n```", text, flags=re.DOTALL)
    assert first == "fit.epochs: 0 -> 7"
    assert second == "fit.epochs: 0 -> 7\nfit.seed: 0 -> 3"
    assert text.count("the same rows in the same splits") == 2


def test_rows_in_another_order_are_the_same_rows(tmp_path):
    order = np.random.default_rng(0).permutation(N)
    a = make_run(tmp_path / "a", outputs_with(range(40)))
    b = make_run(
        tmp_path / "b",
        outputs_with(range(40))[order],
        LABELS[order],
        [TEXTS[i].upper() + " " for i in order],
    )
    assert "; 0 rows it alone has right, 0 the other" in compare([a, b])


def test_other_rows_are_refused(tmp_path):
    a = make_run(tmp_path / "a", outputs_with(()))
    fewer = make_run(tmp_path / "fewer", outputs_with(())[:300], LABELS[:300], TEXTS[:300])
    with pytest.raises(
        UserError, match=r"tested on different rows \(400 and 300, of which 300 are the same\)"
    ):
        compare([a, fewer])
    relabelled = LABELS.copy()
    relabelled[5] = 1 - relabelled[5]
    b = make_run(tmp_path / "b", outputs_with(()), relabelled)
    with pytest.raises(UserError, match="but 1 of 400 have other labels"):
        compare([a, b])


def test_other_tasks_and_classes_are_refused(tmp_path):
    a = make_run(tmp_path / "a", outputs_with(()))
    b = make_run(tmp_path / "b", LABELS[:, None] + 0.1, LABELS.astype("float32"), kind="regression")
    with pytest.raises(UserError, match="different tasks: classification and regression"):
        compare([a, b])
    card = json.loads((a / "metrics.json").read_text())
    c = make_run(tmp_path / "c", outputs_with(()))
    (c / "metrics.json").write_text(json.dumps(card | {"class_names": ["bad", "fair"]}))
    with pytest.raises(UserError, match="different classes: bad, good and bad, fair"):
        compare([a, c])


def test_what_is_no_finished_run_of_ours_is_refused(tmp_path):
    a = make_run(tmp_path / "a", outputs_with(()))
    with pytest.raises(UserError, match="named twice"):
        compare([a, tmp_path / "." / "a"])
    with pytest.raises(UserError, match="two run folders or more"):
        compare([a])
    with pytest.raises(UserError, match="is no run folder"):
        compare([a, tmp_path])
    old = make_run(tmp_path / "old", outputs_with(()))
    (old / tested.FILE).write_bytes(b"PK no archive")
    with pytest.raises(UserError, match="cannot be read"):
        compare([a, old])
    (old / tested.FILE).unlink()
    with pytest.raises(UserError, match="made by an older version"):
        compare([a, old])
    (old / "metrics.json").unlink()
    with pytest.raises(UserError, match="has not finished"):
        compare([a, old])


def test_regression_is_judged_by_the_interval(tmp_path):
    truth = np.linspace(0, 10, N).astype("float32")
    noise = np.random.default_rng(1).normal(size=N)
    runs = [
        make_run(tmp_path / name, (truth + scale * noise)[:, None], truth, kind="regression")
        for name, scale in (("a", 1.0), ("b", 0.5), ("c", 0.5))
    ]
    text = compare(runs[:2])
    assert "mean absolute error" in text
    assert "more than chance explains" in text
    assert "McNemar" not in text
    assert "which may be chance" in compare(runs[1:])


def test_two_real_runs(finished, preset, tmp_path):
    from tests import runs
    from tf_finetune.train import fine_tune

    config = FineTuneConfig.from_json((finished.result.workdir / "config.json").read_text())
    config.fit.epochs, config.results.export, config.fit.learning_rate = 1, False, 1e-6
    other = fine_tune(config, tmp_path / "other", runs.classes(), say=lambda line: None)
    kept = tested.read(other.workdir)
    right = np.mean(kept.outputs.argmax(axis=1) == kept.labels)
    assert right == other.metrics["test"]["accuracy"]
    text = compare([other.workdir, finished.result.workdir])
    gained = finished.result.metrics["test"]["accuracy"] - right
    assert f"{100 * gained:+.1f} points" in text
    assert "fit.epochs: 1 -> 15" in text


def test_p_values_of_several_tests_are_mended():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_rows_of_equal_text_and_other_labels_stand_in_one_order(tmp_path):
    texts = ["ok", "ok", *TEXTS[2:]]
    first = make_run(tmp_path / "a", outputs_with([]), texts=texts)
    turned = [1, 0, *range(2, N)]
    labels, outputs = LABELS[turned], outputs_with([])[turned]
    second = make_run(tmp_path / "b", outputs, labels=labels, texts=texts)
    assert "# Runs compared" in compare([first, second])


def test_outputs_that_are_cut_off_are_told(tmp_path):
    first = make_run(tmp_path / "a", outputs_with([]))
    second = make_run(tmp_path / "b", outputs_with([1]))
    file = second / tested.FILE
    for content in (file.read_bytes()[:-100], b""):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read: .*Copy it again"):
            compare([first, second])


def test_a_card_that_is_cut_off_is_told(tmp_path):
    first = make_run(tmp_path / "a", outputs_with([]))
    second = make_run(tmp_path / "b", outputs_with([1]))
    card = second / "metrics.json"
    card.write_text(card.read_text()[:100])
    with pytest.raises(UserError, match=r'metrics.json" cannot be read .*Copy it again'):
        compare([first, second])
