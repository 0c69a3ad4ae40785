"""Whole runs that tag words, on a tiny random BERT."""

import json
import re

import numpy as np
import pytest

from tests.mistakes import refusal
from tests.tokens import sentences, token_config, write_conll
from tf_finetune import main
from tf_finetune.errors import ExportError, UserError
from tf_finetune.exports.load import load_model
from tf_finetune.exports.tag_model import _difference
from tf_finetune.reexport import export_run
from tf_finetune.rerun import evaluate_run
from tf_finetune.results import tested
from tf_finetune.results.compare import compare
from tf_finetune.train import fine_tune

TEXTS = ["The film plots was good.", "é good", "", "a film " * 40]
WORDS = [["film", "plots", "\u200b", ""], [], ["the", "good"], ["a", "film"] * 40]


@pytest.fixture(scope="module")
def tagged_run(preset, tmp_path_factory):
    """Head, then all, with export: a card, a folder and what was said."""
    folder = tmp_path_factory.mktemp("tokens")
    file = write_conll(folder / "all.conll", *sentences())
    config = token_config(
        preset,
        path=str(file),
        epochs=14,
        probe_epochs=6,
        learning_rate=1e-2,
        global_batch=8,
        export=True,
        sequence_length=0,
    )
    said: list[str] = []
    result = fine_tune(config, folder / "run", say=said.append)
    return result, said, file


def test_it_learns_and_counts_whole_entities(tagged_run):
    result, said, _ = tagged_run
    card = result.metrics
    assert card["class_names"] == ["O", "B-QUALITY", "I-QUALITY", "B-WORK", "I-WORK"]
    assert card["test"]["f1"] > 0.9
    assert card["test"]["f1"] > card["baselines"]["probe"]["f1"] + 0.2
    assert card["gain_over_probe"]["interval"][0] > 0
    assert card["test"]["entities"] == sum(s["support"] for s in card["test"]["per_class"].values())
    assert card["baselines"]["word_tags"]["f1"] > 0.9  # of words that always have one tag
    assert card["test"]["unseen_words"] == 0
    assert {"calibration", "label_audit", "selective"}.isdisjoint(card)
    assert [phase["best_epoch"] > 0 for phase in card["phases"]] == [True, True]
    assert {"score", "val_score", "val_f1", "loss", "val_loss"} <= result.history[-1].keys()
    assert any(line.startswith("Tags are IOB2") for line in said)


def test_the_head_alone_leaves_the_backbone_as_it_was(tagged_run):
    probe = tagged_run[0].metrics["phases"][0]
    assert (probe["train"], probe["audit"]["trained_moved"]) == ("head", 2)
    assert probe["audit"]["frozen_unchanged"] > 30
    assert probe["trainable"] == 16 * 5 + 5


def test_the_reports_speak_of_entities(tagged_run):
    run = tagged_run[0].workdir
    for name in ("report.md", "report.html"):
        text = (run / name).read_text()
        assert "It counts whole entities" in text
        assert "length in tokens" in text
        assert "most frequent tag" in text
    assert "pipeline_tag: token-classification" in (run / "README.md").read_text()
    assert "## Classes" in (run / "data_report.md").read_text()


def test_the_saved_model_and_the_export_tag_alike(tagged_run):
    result = tagged_run[0]
    assert result.metrics["export"]["max_difference"] < 1e-5
    again, served = load_model(result.workdir), load_model(result.workdir / "export")
    for given in (TEXTS, WORDS):
        expected = result.model.predict(given)
        for other, exact in ((again, True), (served, False)):
            for a, b in zip(expected, other.predict(given, batch_size=3), strict=True):
                assert (a.text, a.words, a.tags) == (b.text, b.words, b.tags)
                assert [(s.type, s.start, s.end) for s in a.spans] == [
                    (s.type, s.start, s.end) for s in b.spans
                ]
                close = np.testing.assert_array_equal if exact else np.testing.assert_allclose
                close(a.probabilities, b.probabilities, **({} if exact else {"atol": 1e-5}))
    first = expected[0]
    assert first.tags[2:] == ["O", "O"]  # words without a piece
    assert first.unseen == 2
    assert expected[3].unseen == 80 - 30
    assert result.model.predict([]) == []


def test_spans_point_into_the_text(tagged_run):
    model = tagged_run[0].model
    (found,) = model.predict(["é the film plots was Good"])
    assert ("WORK", "film plots") in [(s.type, s.text) for s in found.spans]
    assert found.spans[-1].text == "Good"
    for span in found.spans:
        assert found.text[span.start : span.end] == span.text
        first, last = span.words
        assert 0 < span.probability <= 1
        tags = [found.tags[i][:1] for i in range(first, last)]
        assert tags == ["B", *["I"] * (last - first - 1)]


def test_evaluating_its_file_again_finds_the_figures_of_the_test_rows(tagged_run):
    result, _, file = tagged_run
    said = evaluate_run(result.workdir, str(file))
    scores = json.loads(said[said.index("{") :])
    test = result.metrics["test"]
    for name in ("rows", "f1", "entities", "precision_interval"):
        assert scores["unseen"][name] == test[name]
    assert "stand in the data that the run trained" in said


def test_evaluation_refuses_types_that_the_model_does_not_know(tagged_run, tmp_path):
    other = write_conll(tmp_path / "b.conll", [["a", "b"]], [["B-NEW", "O"]])
    with pytest.raises(UserError, match=r"unknown label: \S+b\.conll:1 \"B-NEW of a"):
        evaluate_run(tagged_run[0].workdir, str(other))


def test_exporting_again_gives_the_same(tagged_run, tmp_path):
    assert "equal to the model" in export_run(tagged_run[0].workdir, tmp_path / "again")
    served = load_model(tmp_path / "again")
    assert served.predict([["good"]])[0].tags == ["B-QUALITY"]


def test_an_export_with_other_tags_is_no_export(tagged_run):
    (one,) = tagged_run[0].model.predict([["film", "plots"]])
    assert _difference(one, one.probabilities, np.array([b"B-WORK", b"I-WORK"])) == 0
    with pytest.raises(ExportError, match="other tags"):
        _difference(one, one.probabilities, np.array([b"B-WORK", b"O"]))
    with pytest.raises(ExportError, match="differs from the model"):
        _difference(one, one.probabilities + 0.1, np.array([b"B-WORK", b"I-WORK"]))


def predict(run, *arguments):
    assert main.run(["tf-finetune", "--mode=predict", f"--workdir={run}", *arguments]) == 0


def test_the_command_line_tags_texts(tagged_run, capfd):
    predict(tagged_run[0].workdir, "the film plots was good")
    said = capfd.readouterr().out
    assert "film plots (WORK " in said
    assert ", 4-14)" in said
    assert "good (QUALITY " in said
    assert ", 19-23)" in said


@pytest.mark.parametrize("name", ["in.conll", "in.jsonl", "in.csv"])
def test_the_command_line_tags_files(tagged_run, tmp_path, name):
    file, run = tmp_path / name, tagged_run[0].workdir
    rows = {
        "in.conll": "the\ngood\n\nfilm X O\nplots X O\n",
        "in.jsonl": '{"text": ["the", "good"]}\n{"text": "film plots"}\n',
        "in.csv": "text\nthe good\nfilm plots\n",
    }
    file.write_text(rows[name])
    predict(run, f"--input={file}", f"--output={tmp_path / 'out.conll'}")
    assert (tmp_path / "out.conll").read_text() == (
        "the\tO\ngood\tB-QUALITY\n\nfilm\tB-WORK\nplots\tI-WORK\n\n"
    )
    predict(run, f"--input={file}", f"--output={tmp_path / 'out.jsonl'}")
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (first["words"], first["tags"]) == (["the", "good"], ["O", "B-QUALITY"])
    (span,) = second["spans"]
    assert (span["type"], span["text"], span["start"], span["end"]) == ("WORK", "film plots", 0, 10)
    assert 0 < span["probability"] <= 1


def test_a_table_of_classes_is_no_output(tagged_run, tmp_path, capfd):
    run = tagged_run[0].workdir
    (tmp_path / "in.csv").write_text("text\na\n")
    arguments = ["--mode=predict", f"--workdir={run}", f"--input={tmp_path / 'in.csv'}"]
    message = refusal([*arguments, f"--output={tmp_path / 'out.csv'}"], tmp_path, capfd)
    assert "must end in .jsonl or .conll" in message


def test_runs_of_tags_are_compared_by_whole_rows(tagged_run, tmp_path):
    run, other = tagged_run[0].workdir, tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "metrics.json"):
        (other / name).write_bytes((run / name).read_bytes())
    found = tested.read(run)
    right, there, chosen = found.outputs.T
    assert right.sum() * 2 / (there + chosen).sum() == pytest.approx(
        tagged_run[0].metrics["test"]["f1"]
    )
    np.testing.assert_array_equal(found.labels, there)
    # One that finds nothing.
    worse = np.stack([0 * there, there, 0 * there], axis=1)
    with (other / tested.FILE).open("wb") as file:
        np.savez(file, keys=found.keys, labels=found.labels, outputs=worse)
    text = compare([other, run])
    assert re.search(rf"`{run}` beside `{other}`: \+\d+\.\d points .*McNemar's exact p", text)
