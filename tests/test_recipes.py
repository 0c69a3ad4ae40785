"""Whole runs of the recipes beside the default one, on a tiny random BERT."""

import dataclasses

import keras
import numpy as np
import pytest

from tests import runs
from tests.runs import config_for
from tf_finetune.assemble import set_up
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.errors import UserError
from tf_finetune.exports.load import load_model
from tf_finetune.model import backbones
from tf_finetune.model.freezing import lora_layers
from tf_finetune.model.lora import load_adapter
from tf_finetune.train import fine_tune

TEXTS = ["the plot was good", "bad film", ""]


def train(config, workdir):
    return fine_tune(config, workdir, runs.classes(), say=lambda line: None)


def test_gradual_opens_one_block_more_with_each_phase(preset, tmp_path):
    card = train(config_for(preset, phases="gradual"), tmp_path / "run").metrics
    assert [phase["name"] for phase in card["phases"]] == ["probe", "open 1", "open 2", "tune"]
    trainable = [phase["trainable"] for phase in card["phases"]]
    assert trainable == sorted(set(trainable))
    assert trainable[-1] == card["phases"][-1]["total"]
    assert card["phases"][1]["audit"]["frozen_unchanged"] > 0


def test_lora_trains_adapters_and_ships_a_plain_model(preset, tmp_path):
    config = config_for(preset, phases="lora", lora_rank=2, lora_learning_rate=2e-2, epochs=3)
    result = train(config, tmp_path / "run")
    _, phase = result.metrics["phases"]
    assert phase["train"] == "lora"
    assert phase["trainable"] == 2 * 2 * (16 * 2 * 2 + 2 * 8) + 2 * 16 + 2
    assert lora_layers(result.model.network) == []
    before = {v.path: v.numpy() for v in backbones.load(str(preset)).backbone.weights}
    moved = {
        v.path.split("/")[-2]
        for v in result.model.backbone.weights
        if not np.array_equal(v, before[v.path])
    }
    assert moved == {"query", "value"}
    again = load_model(tmp_path / "run")
    np.testing.assert_array_equal(again.predict(TEXTS), result.model.predict(TEXTS))
    # The adapter alone, on the pretrained weights, is the same model.
    other = train(config_for(preset, phases="probe", probe_epochs=1), tmp_path / "other").model
    load_adapter(other.network, tmp_path / "run" / "adapter.safetensors")
    other.calibrate(result.metrics["calibration"]["temperature"])
    np.testing.assert_allclose(other.predict(TEXTS), result.model.predict(TEXTS), atol=1e-5)


def test_an_adapter_holds_what_the_phases_around_it_trained(preset, tmp_path):
    phases = tuple(Phase(train=train, learning_rate=2e-2) for train in ("bias", "lora", "norm"))
    result = train(config_for(preset, phases=phases, lora_rank=2), tmp_path / "run")
    fresh = set_up(config_for(preset, phases="probe"), tmp_path, runs.classes()).task
    load_adapter(fresh.network, tmp_path / "run" / "adapter.safetensors")
    fresh.calibrate(result.metrics["calibration"]["temperature"])
    np.testing.assert_allclose(fresh.predict(TEXTS), result.model.predict(TEXTS), atol=1e-5)


def test_interpolation_ends_no_worse_on_validation(preset, tmp_path):
    config = config_for(preset, learning_rate=3e-2, epochs=3, interpolate=0.0)
    result = train(config, tmp_path / "run")
    line = result.metrics["interpolation"]
    scores = {row["share"]: row["score"] for row in line["sweep"]}
    assert list(scores) == [1.0, 0.8, 0.6, 0.4, 0.2, 0.0][: len(scores)]
    assert scores[line["share"]] == max(scores.values())
    assert result.metrics["validation"]["accuracy"] == pytest.approx(scores[line["share"]])
    assert "of the way from those before tuning" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize("share", [0.8, 0.3])
def test_by_default_a_run_ends_a_part_of_the_way_back(preset, tmp_path, share):
    """Its weights are so much of those of a run that does not, and the rest of its start."""
    assert FineTuneConfig().fit.interpolate == 0.9
    ends = {}
    for name, given in (("tuned", 1.0), ("back", share)):
        config = config_for(preset, learning_rate=1e-3, epochs=2, interpolate=given)
        ends[name] = train(config, tmp_path / name)
    line = ends["back"].metrics["interpolation"]
    assert ends["tuned"].metrics["interpolation"] is None
    assert [row["share"] for row in line["sweep"]] == [1.0, share]
    rose = line["sweep"][1]["loss"] > line["sweep"][0]["loss"]
    assert line["share"] == (1.0 if rose else share)
    start = train(config_for(preset, phases="probe"), tmp_path / "start").model.get_weights()
    for a, b, c in zip(
        start, ends["tuned"].model.get_weights(), ends["back"].model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(c, a + line["share"] * (b - a), atol=1e-6)
    report = (tmp_path / "back" / "report.md").read_text()
    why = "validation loss was higher" if rose else "where validation loss was no higher"
    assert f"The weights are {line['share']:.0%} of the way" in report
    assert why in report


@pytest.mark.parametrize(
    "phases", ["probe", "lora", (Phase(train="head"),), (Phase(), Phase(train="lora"))]
)
def test_without_tuning_there_is_nothing_to_go_back_from(preset, phases, tmp_path):
    config = config_for(preset, phases=phases, interpolate=0.0)
    if phases in ("probe", "lora"):
        assert train(config, tmp_path / "run").metrics["interpolation"] is None
    with pytest.raises(UserError, match="no phase tunes pretrained weights by themselves"):
        dataclasses.replace(
            config,
            fit=dataclasses.replace(config.fit, retained_floor=0.5),
            data=dataclasses.replace(config.data, retained="old.csv"),
        ).validate()


@pytest.mark.parametrize(
    ("train_", "message"),
    [("from:nowhere", "nowhere"), ("re:nothing", "nothing"), ("last:3", "2 blocks")],
)
def test_a_selection_of_what_is_not_there_is_found_before_training(
    preset, tmp_path, train_, message
):
    config = config_for(preset, phases=(Phase(train=train_),))
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_every_selection_trains_what_it_says(preset, tmp_path):
    keras.utils.set_random_seed(0)
    before = {v.path: v.numpy() for v in backbones.load(str(preset)).backbone.weights}
    selections = {
        "norm": {"gamma", "beta"},
        "bias": {"bias", "beta"},
        "re:query/kernel": {"kernel"},
        "from:transformer_layer_1": {"kernel", "bias", "gamma", "beta"},
    }
    for i, (selection, kinds) in enumerate(selections.items()):
        phase = Phase(train=selection, epochs=8, learning_rate=1e-2)
        model = train(
            config_for(preset, phases=(phase,), probe_baseline=False), tmp_path / str(i)
        ).model
        moved = {v.path for v in model.backbone.weights if not np.array_equal(v, before[v.path])}
        assert {path.rsplit("/", 1)[1] for path in moved} == kinds, selection
