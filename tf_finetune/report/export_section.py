"""What the report says of the exports: size, time, proof, and how to use each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tf_finetune.results.wording import table

RUNTIMES = {
    "saved_model": "TensorFlow",
    "litert": "LiteRT",
    "onnx": "ONNX Runtime",
    "keras_hub": "KerasHub",
    "hugging_face": "NumPy, as transformers",
}
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


def section(card: Mapping[str, Any]) -> str:
    """A table of the exports, and a line on each; empty if there is none."""
    exports: Mapping[str, Mapping[str, Any]] = card.get("exports") or {}
    if not exports:
        return ""
    word = "picture" if "image_size" in card else "text"
    rows = [
        [
            name,
            f"{one['bytes'] / 1e6:.1f} MB",
            RUNTIMES[name],
            f"{one['max_difference']:.1e} on {one['texts']} {word}s",
            "" if one["milliseconds"] is None else f"{one['milliseconds']:.1f} ms",
        ]
        for name, one in exports.items()
    ]
    head = ["export", "size", "run by", "differs from the model by", f"one {word}"]
    notes = [f"- {_USES[name]}{_tokens(one)}" for name, one in exports.items() if name in _USES]
    return "\n\n".join(
        [
            "## Exports",
            table(head, rows) + "\n\nEach was run in a fresh process. The time is the median for "
            f"one {word} at a time on the processor of this machine"
            + (
                ", from the bytes of its file on."
                if word == "picture"
                else "; from its token ids on for LiteRT and ONNX, else from the string on."
            ),
            *(["\n".join(notes)] if notes else []),
        ]
    )


def _tokens(one: Mapping[str, Any]) -> str:
    others = one["facts"].get("other_tokens", 0)
    if not others:
        return ""
    return (
        f" Its tokenizer cuts {others} of the {one['texts']} texts compared otherwise than the "
        "model's; there its outputs differ."
    )
