"""Drift of a run's backbone, block by block, from the pretrained one that is loaded anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tf_finetune.data.pipeline import Store
from tf_finetune.fit.feature_cache import outputs_of
from tf_finetune.model import presets
from tf_finetune.model.blocks import Groups, layer_groups
from tf_finetune.model.heads import TokenPooling
from tf_finetune.results.drift import cka, relative_l2

_ROWS = 256


def drift_by_block(
    preset: str,
    backbone: keras.Model,
    store: Store,
    rows: np.ndarray,
    batch_size: int,
    scaling: keras.layers.Layer | None = None,
) -> list[dict[str, Any]]:
    """How far the stem and each block have moved.

    Args:
        preset: that the backbone came from.
        backbone: as it is now.
        store: of tokens, or of pictures.
        rows: to compare representations on, at most the first 256: means over the tokens, or
            the places of the map, that each block gives.
        batch_size: rows a step.
        scaling: of the pixels that the backbone takes.

    Returns:
        Dicts of `block`, `relative_l2` and `cka`, which is None for the stem, and where
        the blocks give neither sequences of vectors nor maps.
    """
    both = [presets.load(preset).backbone, backbone]
    groups = [layer_groups(one, one) for one in both]
    before, after = ([_floats(part) for part in g.weights()[:-1]] for g in groups)
    if [[w.shape for w in part] for part in before] != [[w.shape for w in part] for part in after]:
        return []
    pooled = [_pooled(one, group, scaling) for one, group in zip(both, groups, strict=True)]
    alike: list[float | None] = [None] * len(before)
    views = [one for one in pooled if one]
    if len(views) == len(both):
        found = [outputs_of(v, store, rows[:_ROWS], batch_size=batch_size) for v, _ in views]
        widths = views[0][1]
        ends = np.cumsum(widths)[:-1]
        pairs = zip(*(np.split(one, ends, axis=1) for one in found), strict=True)
        alike = [None, *(cka(a, b) for a, b in pairs)]
    names = ["stem", *groups[0].names]
    return [
        {"block": name, "relative_l2": relative_l2(a, b), "cka": like}
        for name, a, b, like in zip(names, before, after, alike, strict=True)
    ]


def _floats(weights: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [v.numpy() for v in weights if "float" in keras.backend.standardize_dtype(v.dtype)]


def _pooled(
    backbone: keras.Model, groups: Groups, scaling: keras.layers.Layer | None
) -> tuple[keras.Model, list[int]] | None:
    """From inputs to the means of all blocks' outputs, side by side; and the width of each."""
    texts = isinstance(backbone.input, dict)
    if not texts and keras.config.image_data_format() != "channels_last":
        return None
    try:
        ends = [_last(layers, (3,) if texts else (3, 4)) for layers in groups.blocks]
        found = [end for end in ends if end is not None and end.shape[-1]]
        if not found or len(found) < len(ends):
            return None
        if texts:
            pooling, mask = TokenPooling("mean"), backbone.input["padding_mask"]
            parts = [pooling(end, mask) for end in found]
        else:
            parts = [keras.ops.mean(end, axis=tuple(range(1, len(end.shape) - 1))) for end in found]
        joined = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
        view = keras.Model(backbone.input, joined)
        if scaling is not None:
            pixels = keras.Input(scaling.input.shape[1:])
            view = keras.Model(pixels, view(scaling(pixels)))
    except (AttributeError, ValueError, KeyError, TypeError):
        # A layer that is called twice or inside of a nested graph, or a backbone without a mask.
        return None
    return view, [int(end.shape[-1]) for end in found]


def _last(layers: Sequence[keras.layers.Layer], ranks: tuple[int, ...]) -> Any:
    """The last output that is a sequence of vectors or a map: a pooler after it gives none."""
    outputs = (layer.output for layer in reversed(layers))
    return next((one for one in outputs if len(getattr(one, "shape", ())) in ranks), None)
