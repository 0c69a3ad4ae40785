"""One start of the selftest's run, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import keras

from tf_finetune.config import FineTuneConfig
from tf_finetune.model.task import TextTask
from tf_finetune.proof.moments import Moment, send_at
from tf_finetune.proof.tiny import tiny_backbone, tiny_preprocessor, tiny_texts
from tf_finetune.train import fine_tune
from tf_finetune.whole import written_whole

_CLASSES = ("bad", "good")


def start(folder: Path, run: str, moment: Moment | None = None) -> None:
    """Trains, or goes on, in `folder/run`, until it is done or killed.

    Args:
        folder: in which the pretrained model is or will be, for all runs.
        run: the name of a run folder in it.
        moment: of the kill.
    """
    if moment:
        send_at(moment)
    preset = folder / "tiny.keras"
    if not preset.exists():
        keras.utils.set_random_seed(1)
        backbone = tiny_backbone(dropout=0.1, num_layers=2)
        task = TextTask(backbone, tiny_preprocessor(), "classification", _CLASSES)
        with written_whole(preset) as temporary:
            task.save(temporary)
    texts, labels = tiny_texts(80)
    fine_tune(_config(preset), folder / run, (texts, [_CLASSES[label] for label in labels]))


def _config(preset: Path) -> FineTuneConfig:
    config = FineTuneConfig()
    config.data.near_duplicates = 0.0
    config.data.validation = config.data.test = "0.2"
    config.model.preset, config.model.sequence_length = str(preset), 16
    config.fit.precision, config.fit.global_batch = "float32", 8
    config.fit.probe_epochs, config.fit.epochs, config.fit.learning_rate = 2, 3, 1e-3
    config.fit.save_every, config.fit.ema, config.fit.patience = 2, 0.9, 2
    config.results.bootstrap = 100
    return config


if __name__ == "__main__":
    given = sys.argv[3:]
    start(
        Path(sys.argv[1]),
        sys.argv[2],
        Moment(given[0], int(given[1]), float(given[2])) if given else None,
    )
