"""The number type that a network computes in; its variables stay float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.model.blocks import Groups
from tf_finetune.model.flow import specs_of

# Processors without these multiply bfloat16 by way of float32, which is slower.
_NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16"}
_AMPERE = (8, 0)


def resolve(precision: str, *, pictures: bool = False) -> str:
    """`float32`, `bfloat16` or `float16` for any allowed `config.fit.precision`.

    Args:
        precision: as allowed.
        pictures: whether the network is one of pictures. On processors, convolutions of a
            channel at a time are several times slower in bfloat16, as docs/images.md has it.
    """
    if precision != "auto":
        return precision
    if isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy):
        return "bfloat16"
    # What computes is the GPU, where there is one.
    gpus = tf.config.list_physical_devices("GPU")
    has_it = all(map(_gpu_has_bfloat16, gpus)) if gpus else _cpu_has_bfloat16()
    return "bfloat16" if has_it and (gpus or not pictures) else "float32"


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
def whole_float32() -> Iterator[None]:
    """Within it, GPUs multiply float32 as it is; they round it to TF32 where that is faster."""
    rounded = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(rounded)


@contextlib.contextmanager
def computing_in(precision: str, *models: keras.Model) -> Iterator[None]:
    """Lets the layers of some models, at any depth, compute in `precision` for a while.

    Functions that were traced before keep the type they were traced with.

    Args:
        precision: `float32`, `bfloat16` or `float16`.
        *models: those to switch; a head that is to stay in float32 is not among them.
    """
    with _switched([layer for model in models for layer in model._flatten_layers()], precision):
        yield


@contextlib.contextmanager
def _switched(layers: list[keras.layers.Layer], precision: str) -> Iterator[None]:
    # Not by the property: of a `DTypePolicyMap`, which layers share, it changes an entry.
    before = [layer._dtype_policy for layer in layers]
    policy = keras.DTypePolicy("float32" if precision == "float32" else f"mixed_{precision}")
    try:
        for layer in layers:
            layer._dtype_policy = policy
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer._dtype_policy = old


@contextlib.contextmanager
def body_computing_in(precision: str | None, groups: Groups) -> Iterator[None]:
    """As `computing_in`, for all of a model but its head, which keeps its type.

    What Keras has compiled is forgotten at the end, so that `evaluate` and the like are
    traced anew with the types of before.

    Args:
        precision: as in `computing_in`; None changes nothing.
        groups: of the model.
    """
    if precision is None:
        yield
        return
    try:
        with _switched(_body(groups), precision):
            yield
    finally:
        model = groups.model
        model.train_function = model.test_function = model.predict_function = None


def _body(groups: Groups) -> list[keras.layers.Layer]:
    """All but the head, and the models around it, whose own computations belong to it."""
    inner = {id(x) for part in groups.parts[:-1] for layer in part for x in layer._flatten_layers()}
    head = {id(layer) for layer in groups.head}
    return [
        layer
        for layer in groups.model._flatten_layers()
        if id(layer) not in head and any(id(x) in inner for x in layer._flatten_layers())
    ]


def check_precision(precision: str, groups: Groups, inputs: Any = None) -> None:
    """Raises `UserError` for a model that cannot be told to compute in another type.

    Args:
        precision: as in `computing_in`.
        groups: of the model.
        inputs: a batch, for a model that does not say what it takes.
    """
    model, named = groups.model, f'precision is "{precision}", but '
    if not _body(groups):
        raise UserError(f'{named}all of the model "{model.name}" is a head, which keeps its type.')
    if quantised := [x.path for x in model._flatten_layers() if x.quantization_mode]:
        raise UserError(
            f"{named}{quantised[0]} is quantised, and computes in a type of its own; leave "
            "precision out."
        )
    others = [v for v in model.weights if "float" in v.dtype and v.dtype != "float32"]
    if others:
        raise UserError(
            f"{named}{others[0].path} is a {others[0].dtype}; variables must be float32. Make the "
            "model in float32, or leave precision out."
        )
    replicas = tf.distribute.get_strategy()
    trace = tf.function(
        lambda x: replicas.run(lambda y: model(y, training=True), args=(x,)), autograph=False
    )
    try:
        with body_computing_in(precision, groups):
            trace.get_concrete_function(specs_of(model, inputs))
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f'{named}the model "{model.name}" cannot compute in it: {first} Have it cast what it '
            "makes itself to the type of its inputs, or leave precision out."
        ) from None
