"""From the name of a preset to a pretrained backbone, for texts or for pictures."""

from __future__ import annotations

from tf_finetune.model import backbones
from tf_finetune.model.image_backbones import LoadedPictures, is_for_pictures, load_pictures


def load(preset: str) -> backbones.Loaded | LoadedPictures:
    """Loads a pretrained backbone.

    Args:
        preset: as in `backbones.load` or `image_backbones.load_pictures`.

    Raises:
        UserError: if there is no such preset, it cannot be fetched, or is damaged.
    """
    return load_pictures(preset) if is_for_pictures(preset) else backbones.load(preset)
