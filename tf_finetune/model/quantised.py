"""Quantised kernels with adapters beside them are saved with open eyes, or not at all."""

from __future__ import annotations

from typing import Any

import keras

from tf_finetune.errors import UserError
from tf_finetune.model.freezing import lora_layers


def guard_saving(model: keras.Model) -> None:
    """Has the saving of a quantised kernel with an adapter raise `UserError`.

    Keras adds the adapter to the kernel in the file and rounds the sum once more, without
    a word: what is loaded computes something else than what was trained. This holds for
    whatever saves variables: `save`, `save_weights`, checkpoints.

    Args:
        model: each of its layers with an adapter is guarded, also if it is quantised later.
    """
    for layer in lora_layers(model):
        layer.save_own_variables = _Guarded(layer)


class _Guarded:
    def __init__(self, layer: keras.layers.Layer) -> None:
        self._layer = layer

    def __call__(self, store: Any) -> None:
        layer: Any = self._layer
        if layer.lora_enabled and layer.quantization_mode:
            raise UserError(
                f"{layer.path} is quantised ({layer.quantization_mode}) and has an adapter; saving "
                "it whole would add the adapter to the kernel and round it once more, which "
                "changes the outputs. Save the adapter with save_adapter; or take the new "
                "rounding with merge_lora(model, requantize=True), evaluate, and save then."
            )
        type(layer).save_own_variables(layer, store)


def requantize(layer: Any) -> None:
    """Adds the adapter of a quantised layer to its kernel, and rounds that once more."""
    store: dict[str, Any] = {}
    type(layer).save_own_variables(layer, store)
    layer.load_own_variables({key: keras.ops.convert_to_numpy(v) for key, v in store.items()})
