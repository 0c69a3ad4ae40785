"""A language model as a task: packed rows, its loss, what it writes, and how it is loaded."""

import keras
import keras_hub
import numpy as np
import pytest

from tests.language import byte_tokenizer as byte_preprocessor
from tests.language import save_gpt2, tiny_gpt2
from tests.tiny import tiny_task
from tf_finetune.data.responses import EXAMPLES, POSITIONS
from tf_finetune.errors import UserError
from tf_finetune.model.language_models import _checked, load_language
from tf_finetune.model.language_task import language_task
from tf_finetune.model.lora import add_lora, merge_lora
from tf_finetune.model.packing import for_packed_rows
from tf_finetune.model.responses import ResponseCrossentropy, TokenAccuracy

SIZES = {"vocabulary_size": 99, "num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}


def llama():
    backbone = keras_hub.models.LlamaBackbone(num_query_heads=4, num_key_value_heads=2, **SIZES)
    return keras_hub.models.LlamaCausalLM(backbone, None)


def mistral():
    backbone = keras_hub.models.MistralBackbone(
        num_query_heads=4, num_key_value_heads=2, sliding_window=32, **SIZES
    )
    return keras_hub.models.MistralCausalLM(backbone, None)


def opt():
    backbone = keras_hub.models.OPTBackbone(num_heads=2, max_sequence_length=64, **SIZES)
    return keras_hub.models.OPTCausalLM(backbone, None)


def qwen():
    backbone = keras_hub.models.QwenBackbone(num_query_heads=4, num_key_value_heads=2, **SIZES)
    return keras_hub.models.QwenCausalLM(backbone, None)


def gemma():
    backbone = keras_hub.models.GemmaBackbone(
        num_query_heads=2, num_key_value_heads=1, head_dim=8, **SIZES
    )
    return keras_hub.models.GemmaCausalLM(backbone, None)


def rows(model, sizes=(7, 4, 9)):
    """A packed row, and the examples in it by themselves."""
    width = int(model.output.shape[-1])
    examples = [np.random.default_rng(n).integers(1, width, n).astype("int32") for n in sizes]
    alone = [
        {"token_ids": e[None], "padding_mask": np.ones((1, len(e)), "int32")} for e in examples
    ]
    pad = np.zeros(4, "int32")
    row = {
        "token_ids": np.concatenate([*examples, pad])[None],
        "padding_mask": np.concatenate([*map(np.ones_like, examples), pad])[None],
        EXAMPLES: np.concatenate([*(np.full(n, i + 1) for i, n in enumerate(sizes)), pad])[None],
        POSITIONS: np.concatenate([*map(np.arange, sizes), pad])[None],
    }
    return {name: x.astype("int32") for name, x in row.items()}, alone


@pytest.mark.parametrize("make", [tiny_gpt2, llama, mistral, opt, qwen])
def test_an_example_in_a_packed_row_comes_out_as_by_itself(make):
    keras.utils.set_random_seed(0)
    model = make()
    row, alone = rows(model)
    expected = np.concatenate([np.asarray(model(x))[0] for x in alone])
    found = np.asarray(for_packed_rows(model)(row))[0, : len(expected)]
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    # Told of nothing, the same row comes out otherwise: the examples see each other.
    plain = {name: row[name] for name in ("token_ids", "padding_mask")}
    assert np.abs(np.asarray(model(plain))[0, : len(expected)] - expected).max() > 1e-3


def test_models_without_positions_have_no_limit():
    made = llama()
    made.preprocessor = byte_preprocessor()
    found = _checked("llama", made)
    assert found.max_length is None


def test_a_model_that_cuts_prompts_by_itself_is_refused():
    class Own(keras_hub.models.GPT2CausalLMPreprocessor):
        def generate_preprocess(self, x, sequence_length=None):
            return super().generate_preprocess(x, sequence_length)

    model = tiny_gpt2()
    model.preprocessor = Own(model.preprocessor.tokenizer)
    with pytest.raises(UserError, match="cuts prompts in a way of its own"):
        _checked("own", model)


def test_layers_that_cannot_be_told_are_refused():
    with pytest.raises(UserError, match="GemmaCausalLM cannot be packed: its layers take no mask"):
        for_packed_rows(gemma())


def test_the_loss_of_packed_rows_is_that_of_their_examples():
    model = tiny_gpt2()
    row, alone = rows(model)
    labels = [np.where(np.arange(x["token_ids"].size) % 2, x["token_ids"][0], -1) for x in alone]
    loss = ResponseCrossentropy(2.0)
    expected = sum(float(loss(y[None], model(x))) for x, y in zip(alone, labels, strict=True))
    packed = np.concatenate([*labels, np.full(4, -1)])[None].astype("int32")
    found = float(loss(packed, for_packed_rows(model)(row)))
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_loss_and_the_metric_by_hand():
    logits = np.log(np.array([[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]]], "float32"))
    labels = np.array([[0, -1, 2]], "int32")
    expected = -(np.log(0.7) + np.log(0.3)) / 4
    assert float(ResponseCrossentropy(4.0)(labels, logits)) == pytest.approx(expected, rel=1e-6)
    metric = TokenAccuracy()
    metric.update_state(labels, logits)
    assert float(metric.result()) == 0.5
    # Each token counts once, however wide the batch that it stands in.
    wide = np.full((1, 64), -1, "int32")
    wide[0, 5:8] = 2
    metric.update_state(wide, np.tile(logits[:, :1], (1, 64, 1)))
    assert float(metric.result()) == pytest.approx(1 / 5)
    again = keras.losses.deserialize(keras.losses.serialize(ResponseCrossentropy(4.0)))
    assert again.words == 4.0


def test_responses_are_those_of_keras_hub_without_the_prompt():
    model = tiny_gpt2()
    task = language_task(model)
    asked = ["the film", "é", "a much longer prompt than the others"]
    found = task.predict(asked, batch_size=2)
    model.compile(sampler="greedy", jit_compile=False)
    for prompt, response in zip(asked, found, strict=True):
        expected = model.generate([prompt])[0]
        assert prompt + response == expected
    assert task.predict([]) == []
    assert task.predict(np.array(asked)) == found
    # A prompt that fills all there is gets nothing.
    assert task.predict(["word " * 100]) == [""]
    ids = np.ones((2, 5), "int32")
    logits = task.predict({"token_ids": ids, "padding_mask": ids}, verbose=0)
    assert logits.shape == (2, 5, 258)


def test_what_it_writes_follows_its_weights():
    task = language_task(tiny_gpt2())
    first = task.predict(["the film"])
    add_lora(task.network, 4, backbone=task.backbone)
    for v in task.network.trainable_weights:
        if "lora_kernel_b" in v.path:
            v.assign(keras.random.normal(v.shape, seed=3))
    adapted = task.predict(["the film"])
    merge_lora(task.network)
    assert adapted != first
    assert task.predict(["the film"]) == adapted


def test_a_saved_task_is_loaded_again(tmp_path):
    task = language_task(tiny_gpt2(), words=3.5)
    task.save(tmp_path / "task.keras")
    again = keras.saving.load_model(tmp_path / "task.keras", compile=False)
    assert again.words == 3.5
    assert again.predict(["a film"]) == task.predict(["a film"])
    assert len(again.weights) == len(tiny_gpt2().weights)  # none stands twice
    loaded = load_language(str(tmp_path / "task.keras"))
    assert isinstance(loaded.model, keras_hub.models.GPT2CausalLM)
    with pytest.raises(ValueError, match="not calibrated"):
        task.calibrate(2.0)


def test_a_preset_folder_is_loaded_with_its_limit(tmp_path):
    loaded = load_language(str(save_gpt2(tmp_path / "preset")))
    assert (loaded.max_length, loaded.preprocessor.sequence_length) == (96, 64)
    np.testing.assert_array_equal(loaded.model.weights[0], tiny_gpt2().weights[0])


def test_other_models_are_refused_by_name(tmp_path):
    tiny_task().save(tmp_path / "texts.keras")
    (tmp_path / "empty").mkdir()
    hugging_face = tmp_path / "hf"
    hugging_face.mkdir()
    (hugging_face / "config.json").write_text('{"model_type": "gpt2"}')
    (hugging_face / "pytorch_model.bin").write_bytes(b"x")
    for preset, message in (
        (tmp_path / "texts.keras", "holds a TextTask; config.model.task=causal_lm needs"),
        (tmp_path / "none.keras", "there is no file"),
        (tmp_path / "empty", "has no config.json"),
        (hugging_face, "only pickled weights"),
        ("gpt2_base", "Nearest presets: gpt2_base_en"),
        ("./nowhere", "there is no folder"),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_language(str(preset))
        assert str(error.value).startswith("config.model.preset")


def test_a_prompt_of_no_tokens_is_answered_and_harms_no_other():
    """Qwen's tokenizer, for one, begins a text with no token of its own."""
    model = tiny_gpt2()
    model.preprocessor.add_start_token = False
    task = language_task(model)
    prompts = ["a film", "", "\x00", "the plot"]
    found = task.predict(prompts)
    assert found[1] == found[2]
    assert [found[0], found[3]] == task.predict(["a film", "the plot"])
