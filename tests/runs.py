"""Small whole runs: a tiny pretrained model, toy data, and settings that suit both."""

import copy
import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import WORDS, tiny_backbone, tiny_preprocessor, tiny_texts
from tf_finetune.config import FineTuneConfig
from tf_finetune.stopping import Stop

CLASSES = ("neg", "pos")


class StopsAfter(Stop):
    """Asks to stop after so many updates from where a run begins or goes on; 0 means never."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.left = updates

    def wanted(self) -> bool:
        self.left -= 1
        self.asked = self.asked or self.left == 0
        return super().wanted()


def save_preset(file: Path, dropout: float = 0.1, seed: int = 1) -> Path:
    """A `.keras` file with two random blocks."""
    import keras

    from tf_finetune.model.task import TextTask

    keras.utils.set_random_seed(seed)
    task = TextTask(
        tiny_backbone(dropout, num_layers=2), tiny_preprocessor(), "classification", CLASSES
    )
    task.save(file)
    return file


def config_for(file: Path, **changes: Any) -> FineTuneConfig:
    """Settings for a run of seconds; each change goes to the section that has it."""
    config = FineTuneConfig()
    config.data.near_duplicates = 0.0
    config.data.validation = config.data.test = "0.2"
    config.model.preset, config.model.sequence_length = str(file), 16
    config.fit.epochs, config.fit.probe_epochs, config.fit.global_batch = 1, 2, 16
    config.fit.precision, config.fit.interpolate = "float32", 1.0
    config.results.bootstrap, config.results.export = 100, False
    for name, value in changes.items():
        sections = (config.fit, config.data, config.model, config.results, config)
        setattr(next(s for s in sections if hasattr(s, name)), name, value)
    return config


def classes(count: int = 80) -> dict[str, list]:
    """Texts, and a label that says whether "good" stands in them."""
    texts, labels = tiny_texts(count)
    return {"text": texts, "label": [CLASSES[label] for label in labels]}


def several_labels() -> dict[str, list]:
    """Texts, and for each of two words a label that says whether it stands there."""
    texts = classes()["text"]
    found = [[word for word in ("good", "plot") if word in text.split()] for text in texts]
    return {"text": texts, "label": ["|".join(names) for names in found]}


def numbers() -> dict[str, list]:
    """Texts, and how many words they have, far from zero."""
    texts = classes()["text"]
    return {"text": texts, "label": [1000.0 + 10 * len(text.split()) for text in texts]}


def pairs() -> dict[str, list]:
    """Two texts, and whether the first is the longer one."""
    texts = classes()["text"]
    others = texts[::-1]
    longer = [len(a) > len(b) for a, b in zip(texts, others, strict=True)]
    return {"text": texts, "other": others, "label": [str(is_longer) for is_longer in longer]}


def of_one_length() -> dict[str, list]:
    """Texts of eight words each, so that no batch is padded."""
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS[:10], 8)) for _ in range(64)]
    return {"text": texts, "label": [CLASSES["good" in text] for text in texts]}


@dataclasses.dataclass(kw_only=True)
class Run:
    """A finished run, what it was made from and what it said."""

    config: FineTuneConfig
    result: Any
    said: list[str]


def finished_run(preset: Path, folder: Path) -> Run:
    """Head, then all, with export: long enough to learn the one word that counts."""
    from tf_finetune.train import fine_tune

    table = classes()
    with (folder / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([table.keys(), *zip(*table.values(), strict=True)])
    config = config_for(
        preset,
        path=str(folder / "texts.csv"),
        sequence_length=0,
        epochs=15,
        learning_rate=1e-2,
        global_batch=8,
        export=True,
    )
    said: list[str] = []
    result = fine_tune(config, folder / "run", command="the command", say=said.append)
    return Run(config=config, result=result, said=said)


def files_of(folder: Path) -> dict[str, int]:
    """Every file below a folder, with the time of its last change."""
    return {str(f.relative_to(folder)): f.stat().st_mtime_ns for f in folder.rglob("*")}


def without_times(card: dict) -> dict:
    """What two equal runs have in common."""
    card = copy.deepcopy(card)
    times = ("seconds", "train_seconds", "peak_memory_bytes", "export", "resumed", "test_readings")
    for name in (*times, "workdir"):
        card.pop(name)
    for phase in card["phases"]:
        del phase["seconds"], phase["first_step_seconds"]
        for row in phase["history"]:
            del row["seconds"], row["examples_per_second"]
    return card
