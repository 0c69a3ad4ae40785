"""A language model whose rows may hold several examples, none of which sees another."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_finetune.data.responses import EXAMPLES, POSITIONS
from tf_finetune.errors import UserError
from tf_finetune.model.laid_open import Entry, Values, is_graph, laid_open

# Arguments by which KerasHub's layers are told what a token may look at, and where it stands.
_MASK, _PLACES = "decoder_attention_mask", "positions"
_TOLERANCE = 1e-4


@keras.saving.register_keras_serializable("tf_finetune")
class SameExample(keras.layers.Layer):
    """Which tokens belong to one example: from (n, length) numbers to int32 (n, length, length)."""

    def call(self, examples: keras.KerasTensor) -> keras.KerasTensor:
        same = ops.expand_dims(examples, 2) == ops.expand_dims(examples, 1)
        return ops.cast(same, "int32")


def for_packed_rows(model: keras.Model) -> keras.Model:
    """The same layers in a model that also takes `EXAMPLES` and `POSITIONS`, int32 (n, length).

    A token looks at those before it of its own example alone, and stands where it would if
    its example stood in a row by itself. Layers with rotary or relative positions need no
    telling: they go by distances.

    Args:
        model: a functional one, from `token_ids` and `padding_mask` to logits.

    Raises:
        UserError: if its layers cannot be told, which is tried out.
    """
    if not is_graph(model):
        raise _refused(model, "it has a call of its own")
    steps = laid_open(model)
    given = {
        name: keras.Input((None,), dtype="int32", name=name)
        for name in ("token_ids", "padding_mask", EXAMPLES, POSITIONS)
    }
    values: Values = {key: given[steps.tensors[key].name] for key in steps.inputs.values()}
    same, told = SameExample(name="same_example")(given[EXAMPLES]), False
    for step in steps.all:
        if isinstance(step, Entry):
            values[step.writes[0]] = values[step.reads[0]]
            continue
        args, kwargs = step.arguments(values)
        taken = inspect.signature(step.operation.call).parameters
        kwargs |= {_MASK: same} if _MASK in taken else {}
        kwargs |= {_PLACES: given[POSITIONS]} if _PLACES in taken else {}
        told = told or _MASK in taken
        found = keras.tree.flatten(step.operation(*args, **kwargs))
        values.update(zip(step.writes, found, strict=True))
    if not told:
        raise _refused(model, "its layers take no mask of what a token may look at")
    made = keras.Model(given, values[steps.outputs[0]], name="network")
    _check(model, made)
    return made


def _check(model: keras.Model, made: keras.Model) -> None:
    """Raises `UserError` unless two examples in a row come out as by themselves."""
    sizes, width = (5, 8), int(model.output.shape[-1])
    examples = [np.random.default_rng(size).integers(0, width, size) for size in sizes]
    alone = [
        model({"token_ids": ids[None], "padding_mask": np.ones((1, len(ids)), "int32")})
        for ids in examples
    ]
    length = sum(sizes)
    row: dict[str, Any] = {
        "token_ids": np.concatenate(examples)[None],
        "padding_mask": np.ones((1, length), "int32"),
        EXAMPLES: np.repeat(np.arange(1, len(sizes) + 1), sizes)[None],
        POSITIONS: np.concatenate([np.arange(size) for size in sizes])[None],
    }
    found = np.asarray(made({name: ops.cast(x, "int32") for name, x in row.items()}))[0]
    expected = np.concatenate([np.asarray(one)[0] for one in alone])
    difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6))
    if not difference <= _TOLERANCE:
        raise _refused(model, f"an example beside another comes out {difference:.1e} off")


def _refused(model: keras.Model, why: str) -> UserError:
    return UserError(
        f"config.fit.packing is True, but rows of {type(model).__name__} cannot be packed: {why}. "
        "Set it to False; batches of rows of like length have little padding anyway."
    )
