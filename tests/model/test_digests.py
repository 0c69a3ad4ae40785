import keras
import pytest

from tf_finetune.model.digests import changed, digest_of, remember


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_digest_is_of_every_bit(dtype):
    variable = keras.Variable([[0.0, 1.0]], dtype=dtype)
    before = digest_of(variable)
    variable.assign([[-0.0, 1.0]])
    assert digest_of(variable) != before
    variable.assign([[0.0, 1.0]])
    assert digest_of(variable) == before


def test_what_changed_since_it_was_noted_or_never_was():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    kernel, bias = model.weights
    assert changed(model) == [kernel, bias]
    remember(model)
    assert changed(model) == []
    bias.assign([1.0, 0.0])
    assert [v.path for v in changed(model)] == [bias.path]
    remember(model, anew=False)
    assert [v.path for v in changed(model)] == [bias.path]
    remember(model)
    assert changed(model) == []
