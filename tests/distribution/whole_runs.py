"""Whole runs, whose outcome is compared as those of `cases` are."""

import os
import re
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

from tests.pictures import arrays_of_pictures
from tests.runs import StopsAfter, classes, config_for, save_preset
from tests.tiny_pictures import save_image_preset
from tf_finetune.config import Phase
from tf_finetune.fit import planned_cuts
from tf_finetune.stopping import Stopped
from tf_finetune.train import fine_tune

PRESETS, WORKDIR, BATCHES = "TEST_PRESETS", "TEST_WORKDIR", "TEST_BATCHES"


def save_presets(folder):
    """Where a run finds its model; made beforehand, as a strategy comes before all else."""
    save_image_preset(folder / "pictures.keras")
    save_preset(folder / "texts.keras", dropout=0.0)


def run(strategy, preset="texts", rows=None, **changes):
    """A run in a folder that goes away, or one that stops early and is left to go on."""
    file, rows = Path(os.environ[PRESETS], f"{preset}.keras"), rows or classes(75)
    config = config_for(file, seed=3, strategy=strategy, **changes)
    config.model.dropout = 0.0
    stop = StopsAfter(int(os.environ.get(BATCHES, 0)))
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(os.environ.get(WORKDIR, folder), "run")
        said = []
        try:
            result = fine_tune(config, workdir, rows, stop=stop, say=said.append)
        except Stopped:
            return {"place": np.array(stop.place)}
        files = sorted({_plain(f.relative_to(workdir)) for f in workdir.rglob("*") if f.is_file()})
    arrays = {f"weight/{i}": w for i, w in enumerate(result.model.get_weights())}
    for number, row in enumerate(result.history):
        for name, value in row.items():
            if isinstance(value, float) and name not in ("seconds", "examples_per_second"):
                arrays[f"history/{number}/{name}"] = np.float64(value)
    for name in ("accuracy", "loss"):
        arrays[f"card/{name}"] = np.float64(result.metrics["test"].get(name, 0))
    inputs = rows["text"] if isinstance(rows, dict) else rows[0]
    return arrays | {
        "outputs": result.model.predict(inputs[:8]),
        "files": np.array(files),
        "said": np.array(said),
    }


def _plain(file):
    """A file's name without what goes by the clock."""
    clocked = r"(tfevents)\..*|(checkpoints)/\d+/|(looked)-.*"
    return re.sub(clocked, r"\1\2\3/", str(file))


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
        interpolate=0.5,
    )


def adapters(strategy):
    return run(strategy, phases="lora", lora_learning_rate=1e-3, export=True)


def half(strategy):
    """Scaled losses, of which some overflow at first."""
    return run(strategy, phases="full", precision="float16", epochs=2, learning_rate=1e-3)


HEAD = Phase(name="head", train="head", epochs=2, learning_rate=1e-2)
LAST = Phase(name="last", train="last:1", epochs=3, learning_rate=1e-3)


def uncached(strategy):
    """As `last`, but on the whole network."""
    return kept(strategy, phases=(LAST,), cache=False)


def last(strategy):
    return kept(strategy, phases=(LAST,))


def kept(strategy, phases=(HEAD, LAST), cache=True):
    """The head on kept features, then the last block on kept activations."""
    # Or so small a model would not be cut.
    with mock.patch.object(planned_cuts, "_A_BYTE", {"CPU": 1, "GPU": 1}):
        return run(
            strategy,
            phases=phases,
            probe_baseline=False,
            save_every=1,
            cache=cache,
        )


def pictures(strategy):
    """Changed in each epoch; the statistics of normalisation stay frozen."""
    return run(
        strategy,
        preset="pictures",
        rows=arrays_of_pictures(count=40),
        phases=(
            Phase(name="head", train="head", epochs=2, learning_rate=1e-2),
            Phase(name="all", train="all", epochs=2, learning_rate=1e-3),
        ),
        sequence_length=0,
        augment="light",
        export=True,
    )
