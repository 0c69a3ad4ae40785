"""Whole runs of a language model that learns to respond, on a tiny random GPT-2."""

import json
import re

import keras_hub
import numpy as np
import pytest

from tests.language import RESPONSES, language_config, prompts, save_gpt2, write_prompts
from tests.runs import StopsAfter
from tf_finetune import main
from tf_finetune.config import Phase
from tf_finetune.errors import UserError
from tf_finetune.exports.load import load_model
from tf_finetune.exports.served import ExportedResponses
from tf_finetune.fit import planned_cuts
from tf_finetune.model.freezing import lora_layers
from tf_finetune.plan import plan
from tf_finetune.reexport import export_run
from tf_finetune.rerun import evaluate_run
from tf_finetune.results import tested
from tf_finetune.results.compare import compare
from tf_finetune.stopping import Stopped
from tf_finetune.train import fine_tune
from tf_finetune.tuning.space import read_space

ASKED = ["7 the film good:", "9 a plot bad:"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return save_gpt2(tmp_path_factory.mktemp("gpt2") / "preset")


@pytest.fixture(scope="module")
def responding(gpt2, tmp_path_factory):
    """All of it trained, until it responds rightly, with both exports."""
    folder = tmp_path_factory.mktemp("language")
    file = write_prompts(folder / "prompts.jsonl", prompts(200))
    config = language_config(
        gpt2,
        path=str(file),
        epochs=24,
        learning_rate=1e-2,
        export=True,
        formats=("saved_model", "keras_hub"),
    )
    said: list[str] = []
    return fine_tune(config, folder / "run", say=said.append), said, file


def train(preset, folder, **changes):
    said: list[str] = []
    return fine_tune(language_config(preset, **changes), folder, prompts(), say=said.append), said


def test_it_learns_to_respond(responding):
    result, said, _ = responding
    card = result.metrics
    assert card["task"] == "causal_lm"
    before, after = card["baselines"]["untuned"], card["test"]
    assert before["perplexity"] > 100  # of 258 tokens, by random weights
    assert after["perplexity"] < 1.3
    assert after["token_accuracy"] > 0.9
    low, high = after["perplexity_interval"]
    assert low <= after["perplexity"] <= high
    assert card["gain_over_untuned"]["interval"][0] > 0
    assert after["tokens"] == sum(len(row) + 1 for row in _test_responses(result))
    assert [row["chosen"] == row["label"] for row in card["mistakes"]].count(True) >= 6
    assert result.model.predict(ASKED) == [RESPONSES["good"], RESPONSES["bad"]]
    assert {"loss", "val_loss", "accuracy", "val_accuracy"} <= result.history[-1].keys()
    assert any(line.startswith("model: ") and "its own head" in line for line in said)


def _test_responses(result):
    rows = np.load(result.workdir / "cache" / "splits.npz")["test"]
    label = prompts(200)["label"]
    return [label[i] for i in rows]


def test_the_reports_speak_of_responses(responding):
    run = responding[0].workdir
    for name in ("report.md", "report.html"):
        text = (run / name).read_text()
        assert "tokens of the responses" in text
        assert "What it writes" in text
        assert "expected" in text
        assert "The same model before fine-tuning" in text
        assert "fine-tuning lowered it by" in text
    assert "pipeline_tag: text-generation" in (run / "README.md").read_text()
    assert "Lengths of the responses" in (run / "data_report.md").read_text()


def test_what_was_saved_and_exported_responds_alike(responding):
    result = responding[0]
    assert result.metrics["exports"].keys() == {"saved_model", "keras_hub"}
    expected = result.model.predict(ASKED)
    again, served = load_model(result.workdir), load_model(result.workdir / "export")
    assert isinstance(served, ExportedResponses)
    hub = load_model(result.workdir / "export" / "keras_hub")
    for model in (again, served, hub):
        assert (model.kind, model.column, tuple(model.class_names)) == ("causal_lm", "text", ())
        assert model.predict(ASKED) == expected
        assert model.predict([]) == []
    with pytest.raises(UserError, match="a list of prompts"):
        served.predict("a prompt")


def test_keras_hub_reads_its_folder_by_itself(responding):
    result = responding[0]
    folder = result.workdir / "export" / "keras_hub"
    model = keras_hub.models.CausalLM.from_preset(str(folder))
    ids = np.arange(40, dtype="int32").reshape(2, 20)
    x = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    np.testing.assert_allclose(model(x), result.model.network(x), atol=1e-5)
    model.compile(sampler="greedy")
    assert model.generate(ASKED[0]) == ASKED[0] + RESPONSES["good"]


def test_it_is_evaluated_and_asked_from_the_command_line(responding, tmp_path, capsys):
    result, _, file = responding
    run = str(result.workdir)
    new = write_prompts(tmp_path / "new.jsonl", prompts(20, seed=5))
    text = evaluate_run(result.workdir, str(new))
    scores = json.loads(text[text.index("{") :])
    assert (scores["rows"], scores["perplexity"] < 2) == (20, True)
    assert "stand in the data that the run trained" in evaluate_run(result.workdir, str(file))
    assert main.run(["tf-finetune", "--mode=predict", f"--workdir={run}", ASKED[0]]) == 0
    assert capsys.readouterr().out.split() == ["yes", *ASKED[0].split()]
    output = tmp_path / "out.jsonl"
    given = [f"--workdir={run}", f"--input={new}", f"--output={output}"]
    assert main.run(["tf-finetune", "--mode=predict", *given]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(1, 21))
    assert rows[0]["response"] in RESPONSES.values()
    assert "exported to" in export_run(result.workdir, tmp_path / "export")


def test_runs_are_compared_by_perplexity_where_tokens_are_the_same(responding, tmp_path):
    run, other = responding[0].workdir, tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "metrics.json"):
        (other / name).write_bytes((run / name).read_bytes())
    found = tested.read(run)
    loss, right, tokens = found.outputs.T
    for worse, cut in ((loss + tokens, tokens), (loss, tokens + 1)):
        with (other / tested.FILE).open("wb") as file:
            outputs = np.stack([worse, right, cut], axis=1)
            np.savez(file, keys=found.keys, labels=cut, outputs=outputs)
        if cut is tokens:
            (line,) = [x for x in compare([other, run]).splitlines() if x.startswith("- ")]
            assert "above zero is better), more than chance explains." in line
            assert "McNemar" not in line
        else:
            with pytest.raises(UserError, match="responses into other tokens"):
                compare([other, run])


def test_adapters_train_alone_and_are_merged(gpt2, tmp_path):
    changes = {"phases": "lora", "lora_learning_rate": 2e-2, "epochs": 8, "lora_rank": 4}
    result, said = train(gpt2, tmp_path / "run", **changes)
    (phase,) = result.metrics["phases"]
    assert (phase["name"], phase["train"]) == ("lora", "lora")
    # Two layers, query and value, of 32 x 2 heads x 16.
    assert phase["trainable"] == 2 * 2 * (32 * 2 * 4 + 4 * 16)
    assert lora_layers(result.model.network) == []
    before = keras_hub.models.CausalLM.from_preset(str(gpt2)).weights
    pairs = zip(before, result.model.weights, strict=True)
    moved = {b.path for a, b in pairs if not np.array_equal(a, b)}
    assert moved
    assert all("query" in path or "value" in path for path in moved)
    first, test = result.metrics["baselines"]["untuned"], result.metrics["test"]
    assert test["perplexity"] < first["perplexity"]
    assert result.metrics["gain_over_untuned"]["interval"][0] > 0
    assert (tmp_path / "run" / "adapter.safetensors").exists()
    assert load_model(tmp_path / "run").predict(ASKED) == result.model.predict(ASKED)
    assert any(line.startswith("LoRA of rank 4 beside 4 kernels") for line in said)


def test_packed_rows_are_fewer_and_teach_the_same(gpt2, tmp_path):
    changes = {"packing": True, "sequence_length": 96, "epochs": 8, "learning_rate": 1e-2}
    result, said = train(gpt2, tmp_path / "run", global_batch=4, **changes)
    assert any(line.startswith("packing: the 48 training rows are in ") for line in said)
    assert result.metrics["test"]["perplexity"] < 10
    assert "48 train" in (tmp_path / "run" / "README.md").read_text()
    assert load_model(tmp_path / "run").predict(ASKED) == result.model.predict(ASKED)


def test_the_last_block_on_kept_activations_of_packed_rows(gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 1, "GPU": 1})
    phases = (Phase(name="last", train="last:1", epochs=3, learning_rate=1e-2),)
    changes = {"phases": phases, "packing": True, "sequence_length": 64, "global_batch": 4}
    cut, said = train(gpt2, tmp_path / "cut", **changes)
    whole, _ = train(gpt2, tmp_path / "whole", cache=False, **changes)
    assert any(line.startswith("phase last: trains on kept activations") for line in said)
    for a, b in zip(cut.model.weights, whole.model.weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6, err_msg=a.path)


def test_a_stopped_run_ends_as_if_it_had_not_been(tmp_path):
    preset = save_gpt2(tmp_path / "preset", dropout=0.1)
    changes = {"phases": "lora", "packing": True, "sequence_length": 64, "save_every": 1}
    whole, _ = train(preset, tmp_path / "whole", **changes)
    config = language_config(preset, **changes)
    with pytest.raises(Stopped):
        fine_tune(config, tmp_path / "run", prompts(), stop=StopsAfter(3), say=lambda line: None)
    resumed = fine_tune(config, tmp_path / "run", prompts(), say=lambda line: None)
    assert resumed.metrics["resumed"]
    for a, b in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    assert resumed.metrics["test"] == whole.metrics["test"]
    assert resumed.metrics["baselines"] == whole.metrics["baselines"]


def test_the_plan_is_told(gpt2, monkeypatch):
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 1, "GPU": 1})
    last = (Phase(name="last", train="last:1", epochs=3, learning_rate=1e-2),)
    for phases in ("lora", last):
        text = plan(language_config(gpt2, phases=phases, packing=True), prompts())
        assert "packing: " in text
    # Whether that was faster here depends on the machine.
    assert re.search(r"the activations of its frozen part are kept|its activations are kept", text)


def test_mistakes_get_one_message_and_touch_nothing(gpt2, tmp_path):
    def refused(data=None, **changes):
        config = language_config(changes.pop("preset", gpt2), **changes)
        with pytest.raises(UserError) as error:
            fine_tune(config, tmp_path / "run", data or prompts(), say=lambda line: None)
        return str(error.value)

    assert "trains a new head" in refused(phases="probe_then_tune")
    head = (Phase(train="head"), Phase(train="all"))
    assert 'has a phase with train="head"' in refused(phases=head)
    assert "config.fit.mixup" in refused(mixup=0.2)
    assert "config.data.classes has no meaning for causal_lm" in refused(classes=("a", "b"))
    assert "litert" in refused(export=True, formats=("litert",))
    table = prompts()
    empty = table | {"label": ["  ", *table["label"][1:]]}
    assert "missing label" in refused(empty)
    assert "the response" in refused(table | {"label": [["a"], *table["label"][1:]]})
    long = {"text": ["word " * 90 + str(i) for i in range(40)], "label": [" yes"] * 40}
    assert "no response of the" in refused(long)
    assert "at most 96 tokens" in refused(sequence_length=200)
    assert "causal language model" in refused(preset="no_such_preset")
    tuned = language_config(gpt2, phases="lora")
    tuned.tune.space = {"fit.packing": [True, False]}
    with pytest.raises(UserError, match=r"but not .*fit\.packing"):
        read_space(tuned)
    assert not (tmp_path / "run" / "metrics.json").exists()
