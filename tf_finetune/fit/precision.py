"""The number type that a network computes in; its variables stay float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

# Processors without these multiply bfloat16 by way of float32, which is slower.
_NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16"}
_AMPERE = (8, 0)


def resolve(precision: str) -> str:
    """`float32`, `bfloat16` or `float16` for any allowed `config.fit.precision`."""
    if precision != "auto":
        return precision
    if isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):
        return "bfloat16"
    # What computes is the GPU, where there is one.
    gpus = tf.config.list_physical_devices("GPU")
    has_it = all(map(_gpu_has_bfloat16, gpus)) if gpus else _cpu_has_bfloat16()
    return "bfloat16" if has_it else "float32"


def _gpu_has_bfloat16(gpu: tf.config.PhysicalDevice) -> bool:
    """NVIDIA's from Ampere on; of others, which do not tell, it is taken for granted."""
    details = tf.config.experimental.get_device_details(gpu)
    return details.get("compute_capability", _AMPERE) >= _AMPERE


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return bool(_NATIVE_BFLOAT16.intersection(flags))


@contextlib.contextmanager
def computing_in(precision: str, *models: keras.Model) -> Iterator[None]:
    """Lets the layers of some models, at any depth, compute in `precision` for a while.

    Functions that were traced before keep the type they were traced with.

    Args:
        precision: `float32`, `bfloat16` or `float16`.
        *models: those to switch; a head that is to stay in float32 is not among them.
    """
    layers = [layer for model in models for layer in model._flatten_layers()]
    before = [layer.dtype_policy for layer in layers]
    policy = keras.DTypePolicy("float32" if precision == "float32" else f"mixed_{precision}")
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.dtype_policy = old
