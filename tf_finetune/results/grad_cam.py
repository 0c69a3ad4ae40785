"""Grad-CAM: the places of a picture that speak for an output (Selvaraju et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.flow import graph_of
from tf_finetune.model.image_task import ImageTask


class NotDrawn(Exception):
    """A network has no maps to draw by; the message says why."""


def grad_cam(task: ImageTask, pixels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Where each picture holds what speaks for an output (arXiv:1610.02391).

    The backbone's last maps are weighed by the mean gradient of the output's logit, or of
    the value, and summed; what speaks against it is left out. Of a transformer the tokens that go
    into its last block stand in a square for maps, those that are no part of the picture aside.

    Args:
        task: that computes in float32.
        pixels: uint8 (n, height, width, 3) at the size of the network's input.
        outputs: int (n,), an output for each picture.

    Returns:
        float32 (n, h, w) of the maps' size, of which the largest in a picture is 1, unless
        all are 0.

    Raises:
        NotDrawn: if the backbone has no maps, or maps of a single place.
    """
    run, folded = _maps_and_output(task)
    given = tf.cast(pixels, tf.float32)
    with tf.GradientTape() as tape:
        # So that all that follows is recorded; trainable variables may be none.
        tape.watch(given)
        maps, made = run(task.get_layer("scaling")(given))
        if folded(maps).shape[1:3] == (1, 1):
            height, width = task.look.size
            raise NotDrawn(
                "the backbone's last maps have a single place: pictures of "
                f"{height} x {width} pixels are small for it"
            )
        logits = task.head(task.get_layer("pooling")(made), training=False)
        chosen = tf.gather(logits, outputs, axis=1, batch_dims=1)
    weights = tf.reduce_mean(folded(tape.gradient(chosen, maps)), axis=(1, 2), keepdims=True)
    found = tf.nn.relu(tf.reduce_sum(weights * folded(maps), axis=-1)).numpy()
    most = found.max(axis=(1, 2), keepdims=True)
    return found / np.where(most > 0, most, 1)


def _maps_and_output(task: ImageTask) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """From scaled pixels to the last maps and to what is pooled; and maps as (n, h, w, c)."""
    backbone, rank = task.backbone, len(task.get_layer("pooling").input.shape)
    if rank == 4:

        def run(scaled: Any) -> tuple[Any, Any]:
            maps = backbone(scaled, training=False)
            return maps, maps

        return run, _as_it_is
    name = type(backbone).__name__
    if rank == 3:
        return _noting(backbone, _last_block(backbone)), _square
    maps = [] if graph_of(backbone) is None else list(filter(_is_map, _given(backbone)))
    if not maps:
        raise NotDrawn(f"{name} gives vectors, and has no maps inside that Keras can see")
    tapped = keras.Model(backbone.inputs, [maps[-1], backbone.output])
    return lambda scaled: tapped(scaled, training=False), _as_it_is


def _as_it_is(maps: Any) -> Any:
    return maps


def _last_block(backbone: keras.Model) -> keras.layers.Layer:
    """The block behind which the class token alone may count."""
    try:
        block, *_ = layer_groups(backbone, backbone).blocks[-1]
    except (UserError, IndexError):
        name = type(backbone).__name__
        raise NotDrawn(f"{name} gives tokens, and has no blocks that can be seen") from None
    return block


def _noting(backbone: keras.Model, block: keras.layers.Layer) -> Callable[[Any], tuple[Any, Any]]:
    """From scaled pixels to what goes into a layer, however deep, and what the backbone gives."""

    def run(scaled: Any) -> tuple[Any, Any]:
        call, seen = block.call, list[Any]()

        def noted(x: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(x)
            return call(x, *args, **kwargs)

        object.__setattr__(block, "call", noted)
        try:
            made = backbone(scaled, training=False)
        finally:
            object.__delattr__(block, "call")
        return seen[0], made

    return run


def _square(tokens: Any) -> Any:
    """Tokens (n, t, c), of which up to two first ones stand for the whole picture, as maps."""
    count = tokens.shape[1] if len(tokens.shape) == 3 else 0
    sides = {more: math.isqrt(count - more) for more in range(min(3, count))}
    more = next((m for m, side in sides.items() if side and side * side == count - m), None)
    if more is None:
        raise NotDrawn(f"its {count} tokens are no square")
    return tf.reshape(tokens[:, more:], [-1, sides[more], sides[more], tokens.shape[-1]])


def _given(backbone: keras.Model) -> list[Any]:
    """What its layers give, in the order that data flow."""
    return [layer.output for layer in backbone.layers if hasattr(layer, "output")]


def _is_map(output: Any) -> bool:
    shape = getattr(output, "shape", ())
    return len(shape) == 4 and tuple(shape[1:3]) != (1, 1)
