"""What `report.md` says of how the model is used."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tf_finetune.config import FineTuneConfig
from tf_finetune.data_checks import LANGUAGE, TOKENS

_MOST_CLASSES = 20


def usage(card: Mapping[str, Any], config: FineTuneConfig, *, here: bool = False) -> str:
    """Commands and code, as Markdown, to predict and to serve.

    Args:
        card: of the run.
        config: of the run.
        here: for who is in the run folder, wherever that stands.
    """
    export = card.get("export")
    run = Path(card["workdir"])
    if here:
        run = Path()
        export = export and {**export, "path": "/".join(Path(export["path"]).parts[-3:])}
    sample = '["a text", "another"]'
    if "image_size" in card:
        sample = '["a.jpg", "b.png"]'
    elif config.data.text_pair:
        sample = '(["a text"], ["its second text"])'
    if card["task"] == LANGUAGE:
        sample = '["a prompt", "another"]'
    quoted = shlex.quote(str(run))
    output = "predictions.jsonl" if card["task"] in (TOKENS, LANGUAGE) else "predictions.csv"
    text = (
        f"{'In this folder, predict' if here else 'Predict'} a file, or go on in Python:\n\n"
        "```\n"
        f"tf-finetune --mode=predict --workdir={quoted} --input=FILE --output={output}\n"
        "```\n\n"
        "```python\nimport tf_finetune\n\n"
        f"model = tf_finetune.load_model({json.dumps(str(run), ensure_ascii=False)})\n"
        f"model.predict({sample})  # {_columns(card)}\n```\n"
    )
    if not export:
        why = "`results.export` is off"
        if "saved_model" in card.get("failed_exports", {}):
            why = "it failed; `--mode=export` tries again"
        elif card.get("exports"):
            why = "`results.formats` does not name it"
        return text + f"\nNo SavedModel was written ({why})."
    return text + (
        f"\n`{export['path']}` ({export['bytes'] / 1e6:.1f} MB) takes "
        f"{_exported(card, export, config)}\n```\n\n"
        f"The folder above it, `{Path(export['path']).parent}`, is laid out as TensorFlow Serving "
        "wants its `--model_base_path`."
    )


def _exported(card: Mapping[str, Any], export: Mapping[str, Any], config: FineTuneConfig) -> str:
    """What the SavedModel takes, what was proved of it, and how it is called."""
    within = (
        "In a fresh process it gave the model's outputs within "
        f"{export['max_difference']:.1e} on {export['texts']}"
    )
    path = json.dumps(str(export["path"]), ensure_ascii=False)
    load = f"served = tf.saved_model.load({path})\n"
    if "image_size" in card:
        return (
            "JPEG, PNG, GIF and BMP files, or by `serving_pixels` uint8 pictures of any size, and "
            f"needs neither this package nor Keras. {within} pictures, among them grey and "
            "transparent ones, and of hard shapes.\n\n"
            f"```python\nimport tensorflow as tf\n\n{load}"
            'content = tf.io.read_file("a.jpg")\n'
            'served.signatures["serving_default"](image_bytes=content[tf.newaxis])'
        )
    if card["task"] == LANGUAGE:
        return (
            f"prompts and needs neither this package nor Keras. In a fresh process it wrote the "
            f"model's own responses to {export['texts']} prompts.\n\n"
            f"```python\nimport tensorflow as tf\nimport tensorflow_text\n\n{load}"
            'served.signatures["serving_default"](text=tf.constant(["a prompt"]))'
        )
    if card["task"] == TOKENS:
        return (
            "texts, or by `serving_words` words, and needs neither this package nor Keras. "
            f"{within} texts.\n\n"
            f"```python\nimport tensorflow as tf\nimport tensorflow_text\n\n{load}"
            'served.signatures["serving_default"](text=tf.constant(["a text"]))'
        )
    inputs = 'text=tf.constant(["a text"])'
    inputs += ', text_pair=tf.constant(["its second text"])' if config.data.text_pair else ""
    return (
        f"strings and needs neither this package nor Keras. {within} texts, among them empty, "
        "very long, emoji and non-Latin ones.\n\n"
        f"```python\nimport tensorflow as tf\nimport tensorflow_text\n\n{load}"
        f'served.signatures["serving_default"]({inputs})'
    )


def _columns(card: Mapping[str, Any]) -> str:
    if card["task"] == TOKENS:
        return "words, tags and spans of each, by name"
    if card["task"] == LANGUAGE:
        return "a response each"
    if card["task"] == "regression":
        return "one value a picture" if "image_size" in card else "one value a text"
    names = (" ".join(n.split()).replace("`", "'") for n in card["class_names"][:_MOST_CLASSES])
    return "one column each: " + ", ".join(names)
