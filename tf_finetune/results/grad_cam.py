"""Grad-CAM: the places of a picture that speak for an output (Selvaraju et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.model.flow import graph_of
from tf_finetune.model.image_task import ImageTask


class NotDrawn(Exception):
    """A network has no maps to draw by; the message says why."""


def grad_cam(task: ImageTask, pixels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Where each picture holds what speaks for an output (arXiv:1610.02391).

    The backbone's last maps are weighed by the mean gradient of the output's logit, or of
    the value, and summed; what speaks against it is left out.

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
    run = _maps_and_output(task)
    given = tf.cast(pixels, tf.float32)
    with tf.GradientTape() as tape:
        # So that all that follows is recorded; trainable variables may be none.
        tape.watch(given)
        maps, made = run(task.get_layer("scaling")(given))
        if maps.shape[1:3] == (1, 1):
            height, width = task.look.size
            raise NotDrawn(
                "the backbone's last maps have a single place: pictures of "
                f"{height} x {width} pixels are small for it"
            )
        logits = task.head(task.get_layer("pooling")(made), training=False)
        chosen = tf.gather(logits, outputs, axis=1, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(chosen, maps), axis=(1, 2), keepdims=True)
    found = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1)).numpy()
    most = found.max(axis=(1, 2), keepdims=True)
    return found / np.where(most > 0, most, 1)


def _maps_and_output(task: ImageTask) -> Callable[[Any], tuple[Any, Any]]:
    """From scaled pixels to the last maps (n, h, w, c) and to what is pooled."""
    backbone, rank = task.backbone, len(task.get_layer("pooling").input.shape)
    if rank == 4:

        def run(scaled: Any) -> tuple[Any, Any]:
            maps = backbone(scaled, training=False)
            return maps, maps

        return run
    name = type(backbone).__name__
    if rank == 3:
        raise NotDrawn(f"{name} gives tokens, which are no maps of the picture")
    maps = [] if graph_of(backbone) is None else list(filter(_is_map, _given(backbone)))
    if not maps:
        raise NotDrawn(f"{name} gives vectors, and has no maps inside that Keras can see")
    tapped = keras.Model(backbone.inputs, [maps[-1], backbone.output])
    return lambda scaled: tapped(scaled, training=False)


def _given(backbone: keras.Model) -> list[Any]:
    """What its layers give, in the order that data flow."""
    return [layer.output for layer in backbone.layers if hasattr(layer, "output")]


def _is_map(output: Any) -> bool:
    shape = getattr(output, "shape", ())
    return len(shape) == 4 and tuple(shape[1:3]) != (1, 1)
