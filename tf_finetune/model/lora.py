"""Low-rank adapters: small trained matrices beside frozen kernels.

Hu et al. 2021, arXiv:2106.09685. The layers are Keras's own; what it lacks is here: a
file that holds every variable that trained, and merging.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import safetensors
import safetensors.numpy

from tf_finetune.errors import UserError
from tf_finetune.model import quantised
from tf_finetune.model.blocks import layer_groups, listed
from tf_finetune.model.digests import changed, remember
from tf_finetune.model.freezing import lora_layers, selected
from tf_finetune.model.naming import variable_names
from tf_finetune.whole import written_whole

# The attention's query and value projections, as in the paper.
DEFAULT_TARGETS = "re:(query|value)"

_FORMAT = "tf_finetune-adapter-2"


def add_lora(
    model: keras.Model,
    rank: int = 8,
    alpha: float | None = None,
    targets: str = DEFAULT_TARGETS,
    *,
    backbone: keras.Model | str | None = None,
) -> list[keras.layers.Layer]:
    """Puts adapters beside the kernels of some layers; the model's outputs stay the same.

    The selection `lora` then trains the adapters and the head. Kernels quantised before
    with `layer.quantize("int8")` or `"int4"` stay as they are (QLoRA, Dettmers et al.
    2023, arXiv:2305.14314).

    Args:
        model: built; as in `fit_phases`. No layer of its head gets an adapter.
        rank: of the product of the two matrices.
        alpha: their product counts `alpha / rank`; None means `rank`.
        targets: a selection as in `Phase.train`: those of its layers that can have an
            adapter (Dense, EinsumDense, Embedding, convolutions) get one.
        backbone: the pretrained part, or the name of its layer; found if not given.

    Returns:
        The layers with an adapter.

    Raises:
        UserError: for a rank or alpha that is not positive, a target without such
            layers, or a model that has adapters already.
    """
    if rank < 1:
        raise UserError(f"the rank of LoRA is {rank}; it must be at least 1.")
    if alpha is not None and alpha <= 0:
        raise UserError(f"the alpha of LoRA is {alpha}; it must be above 0.")
    if lora_layers(model):
        raise UserError(f'the model "{model.name}" has adapters already; merge them first.')
    groups = layer_groups(model, backbone)
    try:
        chosen = {id(v) for v in selected(groups, targets)}
    except UserError as error:  # speaks of a phase
        raise UserError(str(error).replace("train=", "targets=", 1)) from None
    head = {id(x) for layer in groups.head for x in layer._flatten_layers()}
    able = [
        layer
        for layer in model._flatten_layers()
        if hasattr(layer, "enable_lora") and layer.weights and id(layer) not in head
    ]
    found = [layer for layer in able if id(_base(layer)) in chosen]
    if not found:
        raise UserError(
            f'targets="{targets}" (config.model.lora_targets) selects no layer that can have an '
            f"adapter; choose of these: {listed(layer.path for layer in able)}."
        )
    for layer in found:
        _check_able(layer)
    for layer in found:
        layer.enable_lora(rank, lora_alpha=alpha)
    quantised.guard_saving(model)
    remember(model)
    _forget_traces(model)
    return found


def merge_lora(model: keras.Model, *, requantize: bool = False) -> None:
    """Adds each adapter to its kernel and removes it; the outputs stay the same.

    Args:
        model: with adapters.
        requantize: take it that quantised kernels are rounded once more, which changes
            the outputs.

    Raises:
        UserError: for a quantised kernel, unless `requantize`.
    """
    layers = lora_layers(model)
    for layer in layers:
        if layer.quantization_mode and not requantize:
            raise UserError(
                f"{layer.path} is quantised ({layer.quantization_mode}); adding its adapter would "
                "round it once more and change the outputs. Save the adapter with save_adapter, "
                "or allow it with requantize=True."
            )
    for layer in layers:
        if layer.quantization_mode:
            quantised.requantize(layer)
        else:
            kind = "embeddings" if hasattr(layer, "lora_embeddings_a") else "kernel"
            a, b = (getattr(layer, f"lora_{kind}_{part}") for part in "ab")
            base = _base(layer)
            # By hand: Keras rounds the sum to the type that the layer computes in.
            base.assign(base + (layer.lora_alpha / layer.lora_rank) * keras.ops.matmul(a, b))
            base.trainable = layer.trainable
        # Keras has no way back from `enable_lora`.
        for name in ("kernel", "embeddings"):
            for part in "ab":
                variable = getattr(layer, f"lora_{name}_{part}", None)
                if variable is not None:
                    layer._untrack_variable(variable)
                    setattr(layer, f"lora_{name}_{part}", None)
        layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    _forget_traces(model)


def _check_able(layer: keras.layers.Layer) -> None:
    """Raises `UserError` for what Keras refuses in the middle of a model."""
    names = ("kernel_constraint", "embeddings_constraint")
    for name in (name for name in names if getattr(layer, name, None) is not None):
        raise UserError(
            f"{layer.path} has a {name}, beside which there can be no adapter; choose targets "
            "(config.model.lora_targets) without it, or take the constraint away."
        )
    if layer.quantization_mode not in (None, "int8", "int4"):
        raise UserError(
            f"{layer.path} is quantised ({layer.quantization_mode}), beside which there can be no "
            "adapter; quantise to int8 or int4, or choose other targets."
        )


def _forget_traces(model: keras.Model) -> None:
    """Has Keras trace `fit`, `evaluate` and `predict` anew: a graph keeps the adapters it had."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.Model):
            layer.train_function = layer.test_function = layer.predict_function = None


def save_adapter(
    model: keras.Model,
    file: str | os.PathLike[str],
    *,
    backbone: keras.Model | str | None = None,
) -> None:
    """Writes the adapters, and all else that trained, as one safetensors file.

    It holds the adapters, the head, and every other weight that is not bit for bit what
    it was when `add_lora` was called, in whichever phase it was trained. Where Keras's
    `enable_lora` was called instead, that goes by the first `fit_phases` since; without
    any, the file holds all weights.

    Args:
        model: with adapters.
        file: to write, whole or not at all.
        backbone: as in `add_lora`.

    Raises:
        UserError: if there is no adapter.
    """
    layers = lora_layers(model)
    if not layers:
        raise UserError(f'the model "{model.name}" has no adapters; call add_lora first.')
    known = selected(layer_groups(model, backbone), "lora")
    trained = {id(v) for v in [*known, *changed(model)]}
    tensors = {name: v.numpy() for name, v in _named(model).items() if id(v) in trained}
    facts = {
        "format": _FORMAT,
        "layers": json.dumps(_shapes(layers)),
    }
    with written_whole(Path(file)) as temporary:
        safetensors.numpy.save_file(tensors, temporary, metadata=facts)


def load_adapter(model: keras.Model, file: str | os.PathLike[str]) -> None:
    """Gives a model the adapters, and all else, that `save_adapter` wrote.

    Args:
        model: as it was before its adapters were added, or with adapters of the same
            ranks and alphas beside the same layers.
        file: that was written.

    Raises:
        UserError: if the file is missing, damaged, no adapter, or of another model.
    """
    facts, tensors = _read(Path(file))
    wanted, there = json.loads(facts["layers"]), _shapes(lora_layers(model))
    by_path = {layer.path: layer for layer in model._flatten_layers()}
    if missing := [path for path in wanted if path not in by_path]:
        raise UserError(
            f'"{file}" has adapters for layers that the model "{model.name}" has not: '
            f"{listed(missing)}; it is of another model."
        )
    for path in sorted({*wanted, *there}) if there else ():
        if wanted.get(path) != there.get(path):
            raise UserError(
                f'"{file}" has {_told(wanted.get(path))} beside {path}, but the model '
                f'"{model.name}" has {_told(there.get(path))}; load it into a model without '
                "adapters."
            )
    if not there:
        for path, (rank, alpha) in wanted.items():
            by_path[path].enable_lora(rank, lora_alpha=alpha)
        quantised.guard_saving(model)
        remember(model)
    names = _named(model)
    for name, values in tensors.items():
        if name not in names or tuple(names[name].shape) != values.shape:
            found = tuple(names[name].shape) if name in names else "no such variable"
            raise UserError(
                f'"{file}" holds {name} of shape {values.shape}, but the model "{model.name}" has '
                f"{found}; it is of another model."
            )
    for name, values in tensors.items():
        names[name].assign(values)
    _forget_traces(model)


def _read(file: Path) -> tuple[dict[str, str], dict[str, Any]]:
    if not file.is_file():
        raise UserError(f'"{file}" does not exist; save_adapter writes such a file.')
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            facts = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise UserError(f'"{file}" is damaged or no safetensors file: {error}.') from None
    if facts.get("format") != _FORMAT:
        raise UserError(
            f'"{file}" is no adapter that save_adapter wrote (format {facts.get("format")!r}).'
        )
    return facts, tensors


def _shapes(layers: Sequence[Any]) -> dict[str, list[float]]:
    """Rank and alpha of each adapter, by its layer's path."""
    return {layer.path: [int(layer.lora_rank), float(layer.lora_alpha)] for layer in layers}


def _told(shape: Sequence[float] | None) -> str:
    return f"an adapter of rank {shape[0]} and alpha {shape[1]:g}" if shape else "no adapter"


def _base(layer: keras.layers.Layer) -> Any:
    """The kernel or table that an adapter stands beside."""
    return getattr(layer, "_kernel", getattr(layer, "_embeddings", None))


def _named(model: keras.Model) -> dict[str, keras.Variable]:
    return dict(zip(variable_names(model.weights), model.weights, strict=True))
