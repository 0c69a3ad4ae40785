"""The calls of layers in a Keras model, in the order that data flow, and facts on layers."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

Models = tuple[keras.layers.Layer, ...]

_NO_KERNEL = (keras.layers.Normalization, keras.layers.PReLU)
_TABLE = "embeddings"  # what Keras calls the weights of an embedding


@dataclasses.dataclass(slots=True, eq=False)
class Call:
    """One call of a layer, or of an operation without weights.

    Attributes:
        layer: what is called.
        reads: keys of the tensors that it takes.
        writes: keys of those that it gives.
        inside: the models around it, the outermost first.
        flattens: it has no weights and makes one vector an example from maps or
            sequences.
    """

    layer: Any
    reads: list[Hashable]
    writes: list[Hashable]
    inside: Models
    flattens: bool = False


def calls_of(
    model: keras.layers.Layer, reads: list[Hashable] | None = None, inside: Models = ()
) -> tuple[list[Call], list[Hashable]]:
    """The calls in a model, and the keys of what it gives.

    Nested graphs are laid open. In a model without a graph each layer is taken to read
    what the layer before it gives.

    Args:
        model: a model, or a layer that is made of layers.
        reads: keys of what it is called on.
        inside: the models around it.
    """
    graph, reads = graph_of(model), reads or []
    calls: list[Call] = []
    if graph is None:
        for layer in _in_order(model):
            reads = _add(calls, layer, reads, [object()], inside)
        return calls, reads
    place = {id(operation): i for i, operation in enumerate(graph.operations)}
    known: dict[int, Hashable] = {}
    scope = object()  # a model may be called twice
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in sorted(graph._nodes_by_depth[depth], key=lambda n: place[id(n.operation)]):
            # An input passes on what the model was called on.
            taken = [known[id(t)] for t in node.input_tensors] or reads
            given: list[Hashable] = [(scope, id(t)) for t in node.outputs]
            ranks = [[len(t.shape) for t in ts] for ts in (node.input_tensors, node.outputs)]
            given = _add(calls, node.operation, taken, given, inside, ranks)
            known.update(zip(map(id, node.outputs), given, strict=True))
    return calls, [known[id(t)] for t in graph.outputs]


def _add(
    calls: list[Call],
    layer: Any,
    reads: list[Hashable],
    writes: list[Hashable],
    inside: Models,
    ranks: Sequence[Sequence[int]] = ((), ()),
) -> list[Hashable]:
    """Appends a call, or the calls in a nested graph; gives the keys of what it gives."""
    nested = unwrapped(layer)
    if graph_of(nested) is not None:
        inner, written = calls_of(nested, reads, (*inside, nested))
        calls += inner
        return written
    pools = re.match(r"Global\w*Pool|Flatten", type(layer).__name__) is not None
    falls = max(ranks[0], default=0) > 2 >= max(ranks[1], default=3)
    calls.append(Call(layer, reads, writes, inside, (pools or falls) and not size(layer)))
    return writes


def _in_order(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a model without a graph holds, in the order of their first calls.

    Its `call` is followed on symbols of the shapes that it was built for. Where that
    fails the layers stand in the order of their creation, with a warning. What is not
    called stands first.
    """
    layers = model._flatten_layers(include_self=False, recursive=False)
    called: list[int] = []
    own = [vars(layer).get("call") for layer in layers]
    try:
        for layer in layers:
            layer.call = _noting(layer, called)
        shapes = {
            name.removesuffix("_shape"): keras.tree.map_shape_structure(keras.KerasTensor, shape)
            for name, shape in model._build_shapes_dict.items()
        }
        if len(shapes) == 1:
            model.compute_output_spec(*shapes.values())
        else:
            model.compute_output_spec(**shapes)
    except Exception as error:  # whatever a user's code does that symbols cannot
        warnings.warn(
            f'The order in which "{model.name}" calls its layers cannot be followed, so they are '
            f"taken in the order of their creation: {', '.join(x.name for x in layers)}. "
            f"({str(error).strip().partition(chr(10))[0]})",
            stacklevel=2,
        )
        return layers
    finally:
        for layer, call in zip(layers, own, strict=True):
            vars(layer).pop("call", None)
            if call is not None:
                layer.call = call
    place = {key: i for i, key in enumerate(dict.fromkeys(called))}
    return sorted(layers, key=lambda layer: place.get(id(layer), -1))


def _noting(layer: keras.layers.Layer, called: list[int]) -> Callable[..., Any]:
    call = layer.call

    def note(*args: Any, **kwargs: Any) -> Any:
        called.append(id(layer))
        return call(*args, **kwargs)

    return note


def graph_of(layer: Any) -> Any:
    """The graph of a Functional or Sequential model; None for anything else."""
    graph = layer._functional if isinstance(layer, keras.Sequential) else layer
    return graph if hasattr(graph, "_nodes_by_depth") else None


def specs_of(model: keras.Model, inputs: Any = None) -> Any:
    """What a model takes, for tracing it: the batch is of any size.

    Args:
        model: of any kind.
        inputs: a batch, for a model that does not say what it takes.
    """
    graph = graph_of(model)
    return keras.tree.map_structure(
        lambda x: tf.TensorSpec([None, *x.shape[1:]], tf.as_dtype(x.dtype)),
        graph._inputs_struct if graph else inputs,
    )


def cuts(calls: list[Call]) -> list[int]:
    """The indices of calls whose one output is all that later calls read."""
    read_last = {tensor: i for i, call in enumerate(calls) for tensor in call.reads}
    live = set(read_last).difference(tensor for call in calls for tensor in call.writes)
    found = []
    for i, call in enumerate(calls):
        live.update(call.writes)
        live = {tensor for tensor in live if read_last.get(tensor, -1) > i}
        if len(live) <= 1 and live.issubset(call.writes):
            found.append(i)
    return found


def layers_of(calls: Iterable[Call]) -> list[keras.layers.Layer]:
    """The layers that are called, each once, without operations and inputs."""
    layers = (call.layer for call in calls if isinstance(call.layer, keras.layers.Layer))
    return unseen((x for x in layers if not isinstance(x, keras.layers.InputLayer)), set())


def unseen(items: Iterable[Any], seen: set[int]) -> list[Any]:
    """The items whose id is not in `seen`, each once; adds them to it."""
    found = []
    for item in items:
        if id(item) not in seen:
            seen.add(id(item))
            found.append(item)
    return found


def size(layer: Any, *, tables: bool = True) -> int:
    """Parameters of a layer, with or without embedding tables; 0 for an operation."""
    weights = getattr(layer, "weights", ())
    return sum(math.prod(v.shape) for v in weights if tables or v.name != _TABLE)


def total(calls: Iterable[Call]) -> int:
    """Parameters of all layers that are called, without embedding tables."""
    return sum(size(layer, tables=False) for layer in layers_of(calls))


def has_kernel(layer: Any) -> bool:
    """Whether a layer multiplies by a matrix or convolves."""
    weights = getattr(layer, "weights", ())
    return not isinstance(layer, _NO_KERNEL) and any(
        len(v.shape) > 1 and v.name != _TABLE for v in weights
    )


def sublayers(layer: Any) -> list[keras.layers.Layer]:
    """The layers that a layer is made of, at any depth; none for an operation."""
    if not isinstance(layer, keras.layers.Layer):
        return []
    return layer._flatten_layers(include_self=False)


def unwrapped(layer: Any) -> Any:
    """The layer in a wrapper, such as `TimeDistributed`."""
    return layer.layer if isinstance(layer, keras.layers.Wrapper) else layer


def kind(layer: keras.layers.Layer) -> Hashable:
    """What repeated layers share: the class, and for graphs the name without numbers."""
    # Any two Functional models are of one class.
    name = re.sub(r"_?\d+", "", layer.name) if graph_of(layer) is not None else ""
    return type(layer), name
