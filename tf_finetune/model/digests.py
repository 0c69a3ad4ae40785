"""Which weights are no longer what they were, bit by bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tf_finetune.model.flow import unseen

# Names are counted up in a process; what is frozen does not drop, and is not trained.
_NO_MATTER = {"name", "trainable", "rate", "dropout", "dtype", "shared_object_id", "build_config"}
# A variable keeps it for as long as it lives, through whatever trains its model.
_START = "_digest_before_adapters"


def digest_of(variable: keras.Variable) -> str:
    """Tells any two values of a variable apart, in hexadecimal."""
    # Of bytes: NumPy gives out no buffer of bfloat16.
    values = np.ascontiguousarray(variable.numpy()).reshape(-1).view(np.uint8)
    return hashlib.blake2b(values.data, digest_size=16).hexdigest()


def settings_of(layers: Iterable[keras.layers.Layer]) -> str:
    """What layers compute beside their weights; the same in every process."""
    inner = unseen((each for layer in layers for each in layer._flatten_layers()), set())
    return json.dumps([[type(each).__qualname__, _plain(_config(each))] for each in inner])


def _config(layer: keras.layers.Layer) -> Any:
    if isinstance(layer, keras.Model):  # names its layers; each is there by itself
        return {}
    try:
        return layer.get_config()
    except NotImplementedError:  # one of the user's own
        return {}


def _plain(value: Any) -> Any:
    """Without what tells no two computations apart that are of one network at one precision."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in sorted(value.items()) if k not in _NO_MATTER}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    # Of others, `str` may tell where they stand in memory.
    return getattr(value, "__qualname__", type(value).__qualname__)


def remember(model: keras.Model, *, anew: bool = True) -> None:
    """Notes what each weight of a model is now.

    Args:
        model: whose changes `changed` is to find.
        anew: also where it has been noted before.
    """
    for variable in model.weights:
        if anew or not hasattr(variable, _START):
            setattr(variable, _START, digest_of(variable))


def changed(model: keras.Model) -> list[keras.Variable]:
    """The weights that are not what they were when it was noted, or where it was not."""
    return [v for v in model.weights if getattr(v, _START, "") != digest_of(v)]
