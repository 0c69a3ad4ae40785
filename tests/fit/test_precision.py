import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_backbone, tiny_task
from tf_finetune.fit import precision
from tf_finetune.fit.precision import computing_in, resolve

IDS = {
    "token_ids": np.random.default_rng(0).integers(0, 16, (4, 9)),
    "segment_ids": np.zeros((4, 9), "int32"),
    "padding_mask": np.ones((4, 9), "int32"),
}


def states(backbone):
    return np.asarray(keras.ops.cast(backbone(IDS)["sequence_output"], "float32"))


def test_switching_equals_building_with_the_policy():
    backbone = tiny_backbone()
    built = type(backbone).from_config({**backbone.get_config(), "dtype": "mixed_bfloat16"})
    built.set_weights(backbone.get_weights())
    before = states(backbone)
    with computing_in("bfloat16", backbone):
        assert backbone(IDS)["sequence_output"].dtype == "bfloat16"
        np.testing.assert_array_equal(states(backbone), states(built))
    np.testing.assert_array_equal(states(backbone), before)
    assert {str(v.dtype) for v in backbone.weights} == {"float32"}


def test_the_head_stays_in_float32():
    task = tiny_task()
    with computing_in("bfloat16", task.backbone):
        assert task.network(IDS).dtype == "float32"


def test_auto_is_one_of_two():
    assert resolve("auto") in ("float32", "bfloat16")


@pytest.mark.parametrize(
    ("devices", "capabilities", "cpu", "expected"),
    [
        ({}, {}, False, "float32"),
        ({}, {}, True, "bfloat16"),
        ({"GPU": ["a"]}, {"a": (8, 0)}, False, "bfloat16"),
        ({"GPU": ["a"]}, {"a": (7, 5)}, True, "float32"),
        ({"GPU": ["a", "b"]}, {"a": (9, 0), "b": (7, 0)}, True, "float32"),
        ({"GPU": ["a"]}, {}, False, "bfloat16"),
    ],
)
def test_auto_asks_the_device_that_computes(monkeypatch, devices, capabilities, cpu, expected):
    def details(device):
        known = device in capabilities
        return {"compute_capability": capabilities[device]} if known else {}

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: devices.get(kind, []))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: cpu)
    assert resolve("auto") == expected
    assert resolve("auto", pictures=True) == (expected if devices else "float32")
    tpu = object.__new__(tf.distribute.TPUStrategy)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: tpu)
    assert resolve("auto") == "bfloat16"


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_taken(asked):
    assert resolve(asked) == asked
