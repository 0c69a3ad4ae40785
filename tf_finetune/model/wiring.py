"""How a network's operations are put together, as text that tells any two ways apart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import keras

from tf_finetune.model.flow import graph_of
from tf_finetune.model.laid_open import is_graph
from tf_finetune.model.slicing import Cut

_PLAIN = (str, int, float, bool, type(None))


def wiring_of(cut: Cut) -> str:
    """Which operations a prefix is made of, what each is called with, and what it reads.

    What layers compute by their settings and weights is not in it. It is the same in every
    process: names of tensors, which are counted up in one, are left out.

    Args:
        cut: of the network.
    """
    places = {key: place for place, key in enumerate(cut.steps.tensors)}
    parts = []
    for step in cut.prefix:
        held = getattr(step.node, "arguments", None)
        given = [held.args, held.kwargs] if held is not None else []
        own = {} if step.layer is not None else vars(step.operation)
        parts.append(
            [
                type(step.operation).__qualname__,
                [places[key] for key in step.reads],
                [places[key] for key in step.writes],
                _plain(given),
                _plain({name: own[name] for name in sorted(own) if not name.startswith("_")}),
                _nested(step.layer),
            ]
        )
    return json.dumps(parts)


def _nested(layer: keras.layers.Layer | None) -> list[Any]:
    """Of graphs inside of a layer that stays one step, as their own configurations have it."""
    inner = layer._flatten_layers() if layer is not None else []
    graphs = [one for one in inner if isinstance(one, keras.Model) and graph_of(one) is not None]
    return [_without_names(graph.get_config()) for graph in graphs if is_graph(graph)]


def _without_names(config: Any) -> Any:
    """A graph's configuration, in which names that are counted up in a process are places."""
    text = json.dumps(_plain(config))
    found = dict.fromkeys(re.findall(r'"(?:keras_tensor|[a-z0-9_]+?)_\d+"', text))
    for place, name in enumerate(found):
        text = text.replace(name, f'"#{place}"')
    return text


def _plain(value: Any) -> Any:
    """Constants as they are, and of all else its kind."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, keras.KerasTensor):
        return "tensor"
    if isinstance(value, Mapping):
        return [[str(key), _plain(each)] for key, each in value.items() if key != "name"]
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, slice):
        return ["slice", _plain([value.start, value.stop, value.step])]
    if hasattr(value, "numpy") or hasattr(value, "tolist"):  # a constant array
        array = value.numpy() if hasattr(value, "numpy") else value
        return [str(array.dtype), array.tolist()]
    return type(value).__qualname__
