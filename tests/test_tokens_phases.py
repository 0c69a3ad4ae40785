"""What the engine promises holds where each word has a label."""

import importlib.util
import types

import keras_hub
import numpy as np
import pytest

from tests.mistakes import snapshot
from tests.reliability.comparing import differences
from tests.runs import save_preset
from tests.tokens import table, token_config
from tf_finetune import preflight
from tf_finetune.assemble import set_up
from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.exports.load import load_model
from tf_finetune.fit import planned_cuts
from tf_finetune.fit.resuming import SaveState
from tf_finetune.model import backbones
from tf_finetune.model.token_task import check_tokenizer
from tf_finetune.plan import plan
from tf_finetune.train import fine_tune

HEAD = Phase(name="head", train="head", epochs=3, learning_rate=1e-2)
LAST = Phase(name="last", train="last:1", epochs=2, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def it_pays(monkeypatch):
    """So small a model would not be cut: reading takes as long."""
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 1, "GPU": 1})


def run(preset, folder, **changes):
    said: list[str] = []
    given = {"phases": (HEAD, LAST), "probe_baseline": False, "global_batch": 8} | changes
    return fine_tune(token_config(preset, **given), folder, table(), say=said.append), said


def assert_close(first, second, atol=1e-6):
    for a, b in zip(first.model.weights, second.model.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=atol, err_msg=a.path)


def test_phases_on_kept_activations_end_as_those_without(preset, tmp_path):
    """The head's phase too, which has no one vector a row to train on."""
    cut, said = run(preset, tmp_path / "cut", dropout=0.3)
    whole, _ = run(preset, tmp_path / "whole", dropout=0.3, cache=False)
    for name in ("head", "last"):
        assert any(line.startswith(f"phase {name}: trains on kept activations") for line in said)
    assert_close(cut, whole)
    assert cut.metrics["test"]["f1"] == whole.metrics["test"]["f1"]
    assert not list((tmp_path / "cut" / "cache").glob("activations-*"))
    # What was frozen is as it was to the bit.
    before = {v.path: v.numpy() for v in backbones.load(str(preset)).backbone.weights}
    moved = {v.path for v in cut.model.backbone.weights if not np.array_equal(v, before[v.path])}
    assert moved
    assert all("transformer_layer_1" in path for path in moved)


def test_parts_of_a_batch_add_up_to_it(tmp_path):
    """Rows have unequal numbers of words, so that means over words would not."""
    preset = save_preset(tmp_path / "still.keras", dropout=0.0)
    changes = {"cache": False, "phases": (LAST,)}
    parts, _ = run(preset, tmp_path / "parts", micro_batch=3, dropout=0.0, **changes)
    whole, _ = run(preset, tmp_path / "whole", dropout=0.0, **changes)
    assert_close(parts, whole, atol=1e-4)


class Killed(BaseException):
    """What no part of a run catches."""


def test_a_run_that_is_broken_off_ends_the_same_bit_for_bit(preset, tmp_path, monkeypatch):
    """In an epoch of the head on kept activations, and then of the block behind it."""
    run(preset, tmp_path / "whole", save_every=1)
    end = SaveState.on_train_batch_end
    for last in (8, 14):
        calls: list[int] = []

        def killing(state, batch, logs=None, calls=calls, last=last):
            end(state, batch, logs)
            calls.append(batch)
            if len(calls) == last:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(SaveState, "on_train_batch_end", killing)
            with pytest.raises(Killed):
                run(preset, tmp_path / "broken", save_every=1)
    result, said = run(preset, tmp_path / "broken", save_every=1)
    assert any(line.startswith("goes on from phase last") for line in said)
    assert result.metrics["resumed"] == 2
    assert differences(tmp_path / "whole", tmp_path / "broken") == []


def test_adapters_train_and_are_merged(preset, tmp_path):
    result, _ = run(preset, tmp_path / "run", phases="lora", lora_rank=2, epochs=2)
    assert [phase["train"] for phase in result.metrics["phases"]] == ["head", "lora"]
    assert (tmp_path / "run" / "adapter.safetensors").exists()
    (one,) = result.model.predict([["film", "good"]])
    (again,) = load_model(tmp_path / "run").predict([["film", "good"]])
    np.testing.assert_array_equal(one.probabilities, again.probabilities)


def test_words_beyond_the_length_are_said_and_count_as_missed(preset, tmp_path):
    result, said = run(preset, tmp_path / "run", sequence_length=8, phases=(LAST,), cache=False)
    (line,) = [line for line in said if "beyond 8 tokens" in line]
    test = result.metrics["test"]
    assert test["unseen_words"] > 0
    assert test["recall"] < 1
    with np.load(tmp_path / "run" / "cache" / "splits.npz") as splits:
        rows = splits["test"].tolist()
    assert test["words"] == sum(len(table()["text"][row]) for row in rows)
    assert "The model does not see" in (tmp_path / "run" / "report.md").read_text()
    assert "count as tagged O" in line


def test_a_plan_times_each_phase(preset):
    text = plan(token_config(preset, phases=(HEAD, LAST), global_batch=8), table())
    assert "phase head: the activations of its frozen part are kept" in text or (
        "phase head: its activations are kept" in text
    )
    assert "Tags are IOB2" in text


def test_an_update_is_tried_with_the_labels_of_words(preset, tmp_path):
    config = token_config(preset, phases=(LAST,), global_batch=8)
    setup = set_up(config, tmp_path / "cache", table(), say=lambda line: None)
    preflight._write(tmp_path, config, setup, LAST)
    preflight._try(tmp_path, 4)
    assert int((tmp_path / "peak.json").read_text()) > 10**8


REFUSED = [
    {"mixup": 0.2},
    {"r_drop": 0.5},
    {"probe_seeds": 2},
    {"probe_solver": "lbfgs"},
    {"strategy": "mirrored"},
    {"token_mask": 0.1},
    {"text_pair": "other"},
    {"retained": "a.conll"},
    {"pooling": "first"},
    {"formats": ("saved_model", "onnx")},
    {"previous": "runs/before"},
    {"sampling": "balanced"},
    {"class_weights": "balanced"},
]


@pytest.mark.parametrize("changes", REFUSED, ids=lambda changes: next(iter(changes)))
def test_what_words_do_not_have_is_refused(preset, tmp_path, changes):
    (name,) = changes
    with pytest.raises(UserError, match=rf"config\.\w+\.{name} is"):
        run(preset, tmp_path / "run", **changes)
    assert snapshot(tmp_path) == {}


def test_a_tokenizer_that_does_not_cut_word_by_word_is_refused():
    preprocessor = types.SimpleNamespace(tokenizer=keras_hub.tokenizers.ByteTokenizer())
    with pytest.raises(UserError, match=r'"a/roberta" has a ByteTokenizer.*needs WordPiece'):
        check_tokenizer(preprocessor, "a/roberta")


def test_without_seqeval_the_package_to_install_is_named(preset, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "seqeval" else find(name)
    )
    with pytest.raises(UserError, match=r'pip install "tf_finetune\[tokens\]"'):
        run(preset, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
