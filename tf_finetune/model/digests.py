"""Which weights are no longer what they were, bit by bit."""

from __future__ import annotations

import hashlib

import keras
import numpy as np

# A variable keeps it for as long as it lives, through whatever trains its model.
_START = "_digest_before_adapters"


def digest_of(variable: keras.Variable) -> str:
    """Tells any two values of a variable apart, in hexadecimal."""
    # Of bytes: NumPy gives out no buffer of bfloat16.
    values = np.ascontiguousarray(variable.numpy()).reshape(-1).view(np.uint8)
    return hashlib.blake2b(values.data, digest_size=16).hexdigest()


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
