"""What the report says of the exports: size, time, proof, and how to use each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tf_finetune.data_checks import LANGUAGE
from tf_finetune.exports.parity import Exported
from tf_finetune.results.wording import NAMES, SHARES, decisive, table, value_of

RUNTIMES = {
    "saved_model": "TensorFlow",
    "litert": "LiteRT",
    "litert_dynamic": "LiteRT",
    "litert_int8": "LiteRT",
    "onnx": "ONNX Runtime",
    "keras_hub": "KerasHub",
    "hugging_face": "NumPy, as transformers",
}
_IN_BITS = ("litert_dynamic", "litert_int8")
_LOSS = 0.01
_BOTH = ("value", "model")
_WHOLE = "integers_alone"
_FLOATS = (
    "`litert_int8` computes a part in float32: LiteRT has no int8 for it. An accelerator of "
    "integers leaves that to the processor."
)
_USES = {
    "litert": (
        "`litert/model.tflite` takes token ids, int32 (n, length), cut by `litert/tokenizer.json`."
    ),
    "onnx": "`onnx/model.onnx` takes token ids, int32 (n, length), cut by `onnx/tokenizer.json`.",
    "keras_hub": (
        "`keras_hub` is read by `tf_finetune.load_model`, and its backbone and tokenizer by "
        "KerasHub's `from_preset`."
    ),
    "hugging_face": (
        "`hugging_face` is read by `transformers.AutoModelForSequenceClassification` and "
        "`AutoTokenizer`."
    ),
}
_RESPONDS = "`keras_hub` is read by `keras_hub.models.CausalLM.from_preset`."
_OF_PICTURES = (
    "LiteRT and ONNX files take `pixels`, uint8 (n, height, width, 3), at the size that "
    "`tf_finetune.json` beside them names."
)


def section(card: Mapping[str, Any]) -> str:
    """A table of the exports, and a line on each; empty if there is none."""
    exports: Mapping[str, Mapping[str, Any]] = card.get("exports") or {}
    if not exports:
        return ""
    word = word_of(card)
    rows = [
        [
            name,
            f"{one['bytes'] / 1e6:.1f} MB",
            RUNTIMES[name],
            f"{one['max_difference']:.1e} on {one['texts']} {word}s",
            *([on_test(one)] if word == "picture" else []),
            "" if one["milliseconds"] is None else f"{one['milliseconds']:.1f} ms",
        ]
        for name, one in exports.items()
    ]
    head = ["export", "size", "run by", "differs from the model by", *on_test_head(card)]
    notes = [f"- {_USES[name]}{_tokens(one)}" for name, one in exports.items() if name in _USES]
    if card["task"] == LANGUAGE:
        notes = [f"- {_RESPONDS}"] if "keras_hub" in exports else []
    if word == "picture":
        notes = [f"- {_OF_PICTURES}"] if exports.keys() - {"saved_model"} else []
    notes += [f"- {_FLOATS}" for one in exports.values() if not one["facts"].get(_WHOLE, True)]
    return "\n\n".join(
        [
            "## Exports",
            table([*head, f"one {word}"], rows) + "\n\nEach was run in a fresh process. The time "
            f"is the median for one {word} at a time on the processor of this machine"
            + (
                ", from the bytes of its file on; for LiteRT and ONNX from its pixels on."
                if word == "picture"
                else "; from its token ids on for LiteRT and ONNX, else from the string on."
            ),
            *(["\n".join(notes)] if notes else []),
        ]
    )


def word_of(card: Mapping[str, Any]) -> str:
    """For one row."""
    return "picture" if "image_size" in card else "text"


def on_test_head(card: Mapping[str, Any]) -> list[str]:
    """Of the column that `on_test` fills; there is none for texts."""
    return [f"{NAMES[decisive(card)]} on the test split"] if "image_size" in card else []


def on_test(one: Mapping[str, Any]) -> str:
    """`85.4% (the model 85.8%)`; empty where the export was not judged."""
    facts = one["facts"]
    if "figure" not in facts:
        return ""
    value, model = (value_of({facts["figure"]: facts[key]}, facts["figure"]) for key in _BOTH)
    lost = facts.get("not_decoded", 0)
    without = f", both without {lost:,} files that TensorFlow does not decode" if lost else ""
    return f"{value} (the model {model}{without})"


def losses(card: Mapping[str, Any]) -> list[str]:
    """A caution for each export that does worse than the model by a point or more."""
    found = []
    for name, one in (card.get("exports") or {}).items():
        facts = one["facts"]
        if "figure" not in facts:
            continue
        value, model = (facts[key] for key in _BOTH)
        share = facts["figure"] in SHARES
        loss = model - value if share else (value - model) / max(model, 1e-12)
        # 0.85 - 0.84 is a little less than 0.01.
        if loss >= _LOSS - 1e-9:
            much = f"{100 * loss:.1f} points" if share else f"{loss:.1%}"
            found.append(
                f"The export `{name}` does worse than the model by {much}: "
                f"{NAMES[facts['figure']]} {on_test(one)} on the test split."
            )
    return found


def proved(info: Exported, word: str) -> str:
    """What was found of an export, for a terminal."""
    name = info.path.name
    within = "differs from the model by up to" if name in _IN_BITS else "equal to the model within"
    text = f"{within} {info.max_difference:.1e} on {info.texts} {word}s in a fresh process"
    figure = on_test(dataclasses.asdict(info))
    text += f", {NAMES[info.facts['figure']]} {figure}" if figure else ""
    text += "" if info.facts.get(_WHOLE, True) else f". {_FLOATS.rstrip('.')}"
    return text + _tokens(dataclasses.asdict(info)).rstrip(".").replace(" Its", ". Its", 1)


def _tokens(one: Mapping[str, Any]) -> str:
    others = one["facts"].get("other_tokens", 0)
    if not others:
        return ""
    return (
        f" Its tokenizer cuts {others} of the {one['texts']} texts compared otherwise than the "
        "model's; there its outputs differ."
    )
