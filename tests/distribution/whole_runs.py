"""Whole runs, whose outcome is compared as those of `cases` are."""

import os
import re
import tempfile
from pathlib import Path

import numpy as np

from tests.runs import classes, config_for
from tf_finetune.config import Phase
from tf_finetune.train import fine_tune

PRESET = "TEST_PRESET"


def run(strategy, **changes):
    config = config_for(Path(os.environ[PRESET]), seed=3, strategy=strategy, **changes)
    config.model.dropout = 0.0
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder, "run")
        said = []
        result = fine_tune(config, workdir, classes(75), say=said.append)
        files = sorted({_plain(f.relative_to(workdir)) for f in workdir.rglob("*") if f.is_file()})
    arrays = {f"weight/{i}": w for i, w in enumerate(result.model.get_weights())}
    for number, row in enumerate(result.history):
        for name, value in row.items():
            if isinstance(value, float) and name not in ("seconds", "examples_per_second"):
                arrays[f"history/{number}/{name}"] = np.float64(value)
    for name in ("accuracy", "loss"):
        arrays[f"card/{name}"] = np.float64(result.metrics["test"].get(name, 0))
    texts = classes(8)["text"]
    return arrays | {
        "outputs": result.model.predict(texts),
        "files": np.array(files),
        "said": np.array(said),
    }


def _plain(file):
    """A file's name without what goes by the clock."""
    return re.sub(r"(tfevents)\..*|(checkpoints)/\d+/", r"\1\2/", str(file))


def tuned(strategy):
    """The head on cached features, then everything, with what goes by batches and epochs."""
    return run(
        strategy,
        class_weights="balanced",
        token_deletion=0.1,
        token_swap=0.2,
        layer_decay=0.8,
        l2_sp=0.01,
        ema=0.9,
        interpolate=0.0,
        micro_batch=5,
        gradient_checkpointing=True,
        learning_rate=1e-3,
    )


def gradual(strategy):
    """Layer by layer; the rate goes by the validation loss."""
    return run(
        strategy,
        phases=(
            Phase(name="head", train="head", epochs=2, learning_rate=1e-2, schedule="plateau"),
            Phase(name="last", train="last:1", epochs=1, learning_rate=1e-3),
            Phase(name="all", train="all", epochs=1, learning_rate=1e-4),
        ),
        sampling="balanced",
        probe_seeds=2,
        label_smoothing=0.1,
    )


def adapters(strategy):
    return run(strategy, phases="lora", lora_learning_rate=1e-3, export=True)


def half(strategy):
    """Scaled losses, of which some overflow at first."""
    return run(strategy, phases="full", precision="float16", epochs=2, learning_rate=1e-3)
