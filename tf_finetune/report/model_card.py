"""The model card, in the form of the Hugging Face Hub: `README.md` of a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from tf_finetune.config import FineTuneConfig
from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.report.cautions import cautions, solved
from tf_finetune.report.markdown import figures, opening_lines, task_name
from tf_finetune.report.usage_section import usage
from tf_finetune.results.wording import cell, input_size, shortened

# The Hub's names, for those of our figures that it knows.
_METRICS = {
    "f1": "f1",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "micro_f1": "f1",
    "mae": "mae",
    "r2": "r2",
    "perplexity": "perplexity",
}
_LONGEST = 100


def render(card: Mapping[str, Any], config: FineTuneConfig, prepared: Any) -> str:
    """The card: what the Hub reads in YAML, then what people read.

    Args:
        card: as in `report.render`.
        config: the run's.
        prepared: as in `report.render`.
    """
    import yaml

    front = yaml.safe_dump(_front(card, config), sort_keys=False, allow_unicode=True)
    rows = ", ".join(f"{count:,} {name}" for name, count in prepared.counts.items())
    parts = [
        f"---\n{front}---",
        f"# {_name(config)}",
        f"`{config.model.preset}`, fine-tuned with tf_finetune for {task_name(card['task'])}.",
        "## Results",
        "\n".join(opening_lines(card)),
        figures(card),
        _calibration(card),
        "## Limits",
        cautions(card),
        "## Training data",
        f"{cell(_dataset(config))}: {rows} rows. " + _labels(card),
        "## Training",
        _training(card),
        "## Use",
        usage(card, config, here=True),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(card: Mapping[str, Any], config: FineTuneConfig) -> dict[str, Any]:
    known = [name for name in _METRICS if card["test"].get(name) is not None]
    kind = "image-classification" if "image_size" in card else "text-classification"
    kind = {TOKENS: "token-classification", LANGUAGE: "text-generation"}.get(card["task"], kind)
    found: dict[str, Any] = {"library_name": "keras", "pipeline_tag": kind}
    if config.model.preset.startswith("hf://"):
        found["base_model"] = config.model.preset.removeprefix("hf://")
    return found | {
        "tags": ["tf_finetune", "tensorflow", card["task"].replace("_", "-")],
        "metrics": list(dict.fromkeys(_METRICS[name] for name in known)),
        "model-index": [
            {
                "name": _name(config),
                "results": [
                    {
                        "task": {"type": kind},
                        "dataset": {"name": _dataset(config), "type": "custom", "split": "test"},
                        "metrics": [
                            {
                                "type": _METRICS[name],
                                "name": name,
                                "value": round(float(card["test"][name]), 6),
                            }
                            for name in known
                        ],
                    }
                ],
            }
        ],
    }


def _name(config: FineTuneConfig) -> str:
    return f"{PurePath(config.model.preset).name}-{config.model.task.replace('_', '-')}"


def _dataset(config: FineTuneConfig) -> str:
    """What the data are called; of a file its name alone, for folders are nobody's business."""
    data = config.data
    if data.tfds:
        return data.tfds
    names = [PurePath(part).name for part in data.path.split(",") if part]
    name = ", ".join(names) or "data handed over in Python"
    return name + (f" ({data.where})" if data.where else "")


def _labels(card: Mapping[str, Any]) -> str:
    if card["task"] == "regression":
        return "The target is a number."
    if card["task"] == LANGUAGE:
        return "Each is a prompt with a response."
    names = ", ".join(map(cell, card["class_names"]))
    return "Labels: " + shortened(names, _LONGEST) + "."


def _calibration(card: Mapping[str, Any]) -> str:
    if "calibration" not in card:
        return ""
    found = card["calibration"]
    return (
        f"Expected calibration error on the test rows: {found['after']['ece']:.3f} "
        f"(temperature {found['temperature']:.3f}; {found['method']})."
    )


def _training(card: Mapping[str, Any]) -> str:
    phases = "; ".join(
        f"{p['name']}: {p['trainable']:,} of {p['total']:,} parameters, "
        f"{len(p['history'])} {'penalties' if solved(p) else 'epochs'}, {p['seconds']:.0f} s"
        for p in card["phases"]
    )
    return (
        f"{phases}. Computed in {card['precision']}, {input_size(card)}. "
        "The whole account is in report.html and report.md, every setting in config.json."
    )
