import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.findings import Findings
from tf_finetune.report.markdown import render, summary
from tf_finetune.results import evaluate
from tf_finetune.results.wording import cell

NAMES = ("bad", "good|fine")


def phase(**given):
    epochs = [{"phase": "tune", "epoch": i + 1, "val_accuracy": 0.8, "step": i} for i in range(3)]
    return {
        "name": "tune",
        "train": "all",
        "trainable": 250,
        "total": 1000,
        "seconds": 12.34,
        "best_epoch": 2,
        "history": epochs,
        "audit": {"frozen_unchanged": 7, "trained_moved": 5},
        **given,
    }


def make(kind="classification", names=NAMES, n=200, **given):
    random = np.random.default_rng(0)
    if kind == "regression":
        labels = random.normal(size=n)
        outputs, probe = (labels[:, None] + random.normal(0, s, (n, 1)) for s in (0.1, 0.5))
    else:
        labels = random.integers(0, len(names), n).astype("int32")
        hot = np.eye(len(names))[labels]
        outputs, probe = (
            (hot + s * random.random(hot.shape)) / (1 + s * len(names)) for s in (1.8, 3.0)
        )
        if kind == "multi_label":
            labels = hot
    how = {"bootstrap": 200}
    card = evaluate.card(
        kind,
        names,
        evaluate.score(kind, outputs, labels, names, **how),
        {
            "majority": evaluate.majority_baseline(kind, labels, labels, names, **how),
            "probe": evaluate.score(kind, probe, labels, names, **how),
        },
        gain_over_probe=evaluate.gain(kind, outputs, probe, labels, **how),
    )
    card |= {
        "phases": [phase()],
        "seconds": {"total": 100.2, "train": 80.0},
        "peak_memory_bytes": 2_500_000_000,
        "precision": "bfloat16",
        "sequence_length": 64,
        "export": {
            "path": Path("runs/x/export/saved_model/1"),
            "bytes": 94_000_000,
            "max_difference": 3e-8,
            "texts": 74,
        },
        "versions": {"python": "3.11.7", "tensorflow": "2.21.0"},
        "command": "tf-finetune --config=configs/reviews.py --workdir=runs/x",
        "workdir": "runs/x",
        "data_digest": "abc123",
        **given,
    }
    findings = Findings()
    findings.add("leak", "a.csv:3", "a text")
    prepared = SimpleNamespace(
        splits={"train": np.arange(n // 2), "test": np.arange(n // 2, n)},
        counts={"train": n // 2, "test": n - n // 2},
        labels=labels,
        class_names=() if kind == "regression" else names,
        findings=findings,
    )
    config = FineTuneConfig()
    config.model.task = kind
    config.fit.epochs = 3
    return card, config, prepared


def test_the_opening_says_the_figure_its_interval_and_the_baselines():
    card, config, prepared = make()
    text = render(card, config, prepared)
    assert text.startswith("# minilm, fine-tuned for classification\n")
    low, high = card["test"]["accuracy_interval"]
    assert "On 200 test rows" in text
    assert f"**{card['test']['accuracy']:.1%}** (95% interval {low:.1%} to {high:.1%})" in text
    assert f"training labels gets {card['baselines']['majority']['accuracy']:.1%}." in text
    assert f"backbone gets {card['baselines']['probe']['accuracy']:.1%}." in text


def test_it_tells_what_a_stranger_needs():
    text = render(*make())
    for expected in (
        "| tune | all | 250 of 1,000 (25.0%) | 2 of 3 | 12.3 | 5 moved, 7 frozen bit-identical |",
        "| phase | epoch | val_accuracy |",
        "1 x leak",
        "fit.epochs: 0 -> 3",
        "tf-finetune --config=configs/reviews.py --workdir=runs/x",
        "tensorflow 2.21.0",
        "`abc123`",
        "2.50 GB",
        "tf-finetune --mode=predict --workdir=runs/x",
        'tf_finetune.load_model("runs/x")',
        "`runs/x/export/saved_model/1` (94.0 MB)",
        "within 3.0e-08 on 74 texts",
        "`runs/x/export/saved_model`, is laid out as TensorFlow Serving",
    ):
        assert expected in text


MISTAKE = {
    "place": "a.csv:7",
    "texts": ["a | text", "<b>second</b>"],
    "label": "bad",
    "chosen": "good|fine",
    "badness": 0.987,
    "neighbours": [
        {"place": "a.csv:9", "texts": ["like it"], "label": "bad", "similarity": 0.5},
    ],
}
CLOSER = {
    "slices": [
        {"by": "from", "name": "here", "rows": 9, "value": 0.5, "interval": [0.25, 0.75]},
    ],
    "selective": [
        {"coverage": 0.8, "rows": 160, "accuracy": 0.9, "interval": [0.8, 0.95], "threshold": 0.7}
    ],
    "mistakes": [MISTAKE],
    "label_audit": {
        "method": "the method",
        "rows": 1234,
        "suspected": 56,
        "probe_accuracy": 0.8,
        "first": [MISTAKE | {"likely": "good|fine"}],
    },
    "drift": [
        {"block": "stem", "relative_l2": 0.001, "cka": None},
        {"block": "block_1", "relative_l2": 0.0213, "cka": 0.98765},
    ],
}


def test_parts_mistakes_labels_and_drift_are_told():
    text = render(*make(**CLOSER))
    for expected in (
        "| from | here | 9 | 50.0% | 25.0% to 75.0% |",
        "| 80% | 160 | 90.0% | 80.0% to 95.0% | 0.700 |",
        "| a.csv:7 | bad | good\\|fine | 0.987 | a \\| text / &lt;b>second&lt;/b> |",
        "56 of 1,234 training rows are suspected, by the method",
        "| block_1 | 2.13% | 0.9877 |",
        "| stem | 0.10% |  |",
    ):
        assert expected in text, expected


def test_the_test_of_pairs_is_told():
    card, config, prepared = make()
    card["gain_over_probe"]["mcnemar"] = {"only_first": 31, "only_second": 12, "p": 0.0053}
    text = render(card, config, prepared)
    assert "31 only this model has right and 12 only the head alone" in text
    assert "p = 0.0053" in text


def test_class_names_cannot_break_a_table():
    text = render(*make())
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) >= 6
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table
    assert "good\\|fine" in text


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ([0.01, 0.05], "more than chance explains"),
        ([-0.01, 0.05], "which may be chance"),
        ([-0.05, -0.01], "ship the head alone"),
    ],
)
def test_the_gain_over_the_head_alone_is_judged_by_its_interval(interval, verdict):
    card, config, prepared = make()
    card["gain_over_probe"] = {"figure": "accuracy", "value": 0.02, "interval": interval}
    assert verdict in render(card, config, prepared)


def test_cautions_are_those_that_apply():
    card, config, prepared = make(n=40)
    card["phases"] = [phase(best_epoch=3)]
    text = render(card, config, prepared)
    assert "wider than ten points" in text
    assert "still improving at its last epoch" in text
    assert "Fewer than 30 test rows" in text
    card["phases"] = [phase(best_epoch=0)]
    assert "No epoch of phase `tune` was better on validation" in render(card, config, prepared)
    solved = phase(best_epoch=0)
    solved["history"] = [row | {"penalty": 1.0} for row in solved["history"]]
    card["phases"] = [solved]
    assert "lower learning rate" not in render(card, config, prepared)
    solved["best_epoch"] = len(solved["history"])
    assert "still improving" not in render(card, config, prepared)
    text = render(*make(n=2000))
    assert "wider than ten points" not in text
    assert "still improving" not in text
    assert "Fewer than 30" not in text


def export_of(name, figure="accuracy", value=0.85, model=0.858, **facts):
    one = {"path": f"runs/x/export/{name}", "bytes": 4_000_000, "texts": 200}
    facts |= {"figure": figure, "value": value, "model": model}
    return {name: one | {"max_difference": 0.02, "milliseconds": 3.0, "facts": facts}}


def test_exports_of_pictures_are_judged_on_the_test_split():
    exports = export_of("litert") | export_of("litert_int8", value=0.84)
    card, config, prepared = make(exports=exports, image_size=32)
    text = render(card, config, prepared)
    assert "| accuracy on the test split | one picture |" in text
    assert "| 2.0e-02 on 200 pictures | 85.0% (the model 85.8%) | 3.0 ms |" in text
    worse = "`litert_int8` does worse than the model by 1.8 points: accuracy 84.0% (the model 85.8"
    assert worse in text
    assert "`litert` does worse" not in text
    assert "computes a part in float32" not in text
    exports = export_of("litert_int8", "mae", 1.02, 1.0, integers_alone=False)
    card, config, prepared = make("regression", ("stars",), exports=exports, image_size=32)
    text = render(card, config, prepared)
    assert "does worse than the model by 2.0%: mean absolute error 1.02 (the model 1)" in text
    assert "computes a part in float32" in text


def test_seeds_that_diverged_are_told_of():
    seeds = {"monitor": "val_accuracy", "figures": [None, 0.5, 0.75], "chosen": 3}
    text = render(*make(phases=[phase(seeds=seeds | {"spread": 0.1768})]))
    assert "3 initial heads: val_accuracy diverged, 0.5000, 0.7500, standard dev" in text
    seeds |= {"figures": [None, None, 0.75], "spread": None}
    text = render(*make(phases=[phase(seeds=seeds)]))
    assert "val_accuracy diverged, diverged, 0.7500. Head 3 went on." in text


def test_many_classes_are_cut_and_the_worst_mistakes_named():
    names = tuple(f"class {i}" for i in range(40))
    card, config, prepared = make(names=names, n=2000)
    card["test"]["confusion"][3][5] = 999
    text = render(card, config, prepared)
    assert "The 20 largest of 40" in text
    assert "| class 3 | class 5 | 999 |" in text
    assert len(text) < 12_000


def test_regression_speaks_of_errors():
    card, config, prepared = make("regression", ("value",))
    text = render(card, config, prepared)
    assert f"mean absolute error is **{card['test']['mae']:.4g}**" in text
    assert "R²" in text
    assert "one value a text" in text
    assert "Confusion" not in text


def test_multi_label_has_no_confusion_matrix():
    text = render(*make("multi_label"))
    assert "all labels right" in text
    assert "micro-F1" in text
    assert "| bad |" in text
    assert "Confusion" not in text


def test_pairs_without_an_export():
    card, config, prepared = make(export=None)
    config.data.text_pair = "second"
    text = render(card, config, prepared)
    assert 'model.predict((["a text"], ["its second text"]))' in text
    assert "No SavedModel was written" in text
    assert "saved_model.load" not in text


def test_the_summary_is_short_and_points_to_the_rest():
    card, _, _ = make()
    lines = summary(card, Path("runs/x")).splitlines()
    assert lines[0].startswith(f"test: accuracy {card['test']['accuracy']:.1%} (")
    assert len(lines) == 5
    assert lines[-2:] == [
        "report: runs/x/report.html (or .md); model: runs/x/model.keras",
        "export: runs/x/export/saved_model/1",
    ]


def test_a_failed_export_shows_no_row():
    card, config, prepared = make(failed_exports={"onnx": "differs on the text 'a secret'"})
    text = render(card, config, prepared)
    assert "There is no export as `onnx`, which failed" in text
    assert "secret" not in text


def test_a_text_cannot_get_out_of_a_cell():
    for text in ("[x](http://a)", r"\[x](http://a)", r"a\|b", "a|b", "`x`", "<b>", r"\\[x](u)"):
        found = cell(text)
        # Read as Markdown does: what a backslash precedes is plain.
        plain = re.sub(r"\\.", "", found)
        assert not re.search(r"[\[|<`]", plain), found
