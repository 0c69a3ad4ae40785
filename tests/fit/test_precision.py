import keras
import numpy as np
import pytest

from tests.tiny import tiny_backbone, tiny_task
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


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_taken(precision):
    assert resolve(precision) == precision
