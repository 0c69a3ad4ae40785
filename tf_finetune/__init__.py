"""Fine-tune pretrained Keras models on your own labelled data."""

from __future__ import annotations

import importlib
from typing import Any

from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.errors import UserError

__version__ = "0.1.0"

# Names that need TensorFlow are imported on first use: a mistake in a recipe is
# then reported in a tenth of a second, not after TensorFlow's start-up.
_LAZY = {
    "FitResult": "tf_finetune.train",
    "GradualUnfreezing": "tf_finetune.fit.unfreezing",
    "LayerwiseAdamW": "tf_finetune.optim.optimizers",
    "add_lora": "tf_finetune.model.lora",
    "find_learning_rate": "tf_finetune.rates.finder",
    "fine_tune": "tf_finetune.train",
    "fit_phases": "tf_finetune.fit.phased",
    "load_adapter": "tf_finetune.model.lora",
    "load_model": "tf_finetune.exports.load",
    "merge_lora": "tf_finetune.model.lora",
    "save_adapter": "tf_finetune.model.lora",
    "selftest": "tf_finetune.proof.selftest",
    "tune": "tf_finetune.tuning.study",
}

__all__ = [
    "FineTuneConfig",
    "FitResult",
    "GradualUnfreezing",
    "LayerwiseAdamW",
    "Phase",
    "UserError",
    "add_lora",
    "find_learning_rate",
    "fine_tune",
    "fit_phases",
    "load_adapter",
    "load_model",
    "merge_lora",
    "save_adapter",
    "selftest",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tf_finetune' has no attribute {name!r}")
