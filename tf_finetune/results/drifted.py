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
    preset: str, backbone: keras.Model, store: Store, rows: np.ndarray, batch_size: int
) -> list[dict[str, Any]]:
    """How far the stem and each block have moved.

    Args:
        preset: that the backbone came from.
        backbone: as it is now.
        store: of tokens.
        rows: to compare representations on, at most the first 256: means over the tokens
            that each block gives.
        batch_size: rows a step.

    Returns:
        Dicts of `block`, `relative_l2` and `cka`, which is None for the stem, and where
        the blocks give no sequence of vectors.
    """
    both = [presets.load(preset).backbone, backbone]
    groups = [layer_groups(one, one) for one in both]
    before, after = ([_floats(part) for part in g.weights()[:-1]] for g in groups)
    if [[w.shape for w in part] for part in before] != [[w.shape for w in part] for part in after]:
        return []
    views = [_pooled(one, group) for one, group in zip(both, groups, strict=True)]
    alike: list[float | None] = [None] * len(before)
    if views[0] and views[1]:
        found = [outputs_of(v, store, rows[:_ROWS], batch_size=batch_size) for v in views if v]
        pairs = zip(*(np.split(one, len(before) - 1, axis=1) for one in found), strict=True)
        alike = [None, *(cka(a, b) for a, b in pairs)]
    names = ["stem", *groups[0].names]
    return [
        {"block": name, "relative_l2": relative_l2(a, b), "cka": like}
        for name, a, b, like in zip(names, before, after, alike, strict=True)
    ]


def _floats(weights: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [v.numpy() for v in weights if "float" in keras.backend.standardize_dtype(v.dtype)]


def _pooled(backbone: keras.Model, groups: Groups) -> keras.Model | None:
    """From tokens to the means of all blocks' outputs, side by side."""
    if not isinstance(backbone.input, dict):
        return None  # a backbone for pictures, which gives maps
    try:
        ends = [_last_sequence(layers) for layers in groups.blocks]
        mask = backbone.input["padding_mask"]
    except (AttributeError, ValueError, KeyError, TypeError):
        return None  # a layer that is called twice, or a backbone without a mask
    if (
        any(end is None for end in ends)
        or len({end.shape[-1] for end in ends if end is not None}) != 1
    ):
        return None
    pooling = TokenPooling("mean")
    parts = [pooling(end, mask) for end in ends]
    joined = keras.layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    return keras.Model(backbone.input, joined)


def _last_sequence(layers: Sequence[keras.layers.Layer]) -> keras.KerasTensor | None:
    """The last output that is a sequence of vectors: a pooler that follows gives none."""
    outputs = (layer.output for layer in reversed(layers))
    return next((one for one in outputs if len(getattr(one, "shape", ())) == 3), None)
