"""Gradient checkpointing: activations of blocks are computed again instead of kept."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.model.blocks import Groups, listed
from tf_finetune.model.flow import graph_of, size, specs_of
from tf_finetune.model.repeats import composite

_Call = Callable[..., Any]

# Operations that change nothing, though TensorFlow counts them as stateful.
_READS = {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VarHandleOp", "Assert"}
_NESTS = {"While", "If", "Case", "StatefulPartitionedCall"}


class _Draws:
    """The seeds that a call of a block draws, for drawing the same ones again.

    `tf.recompute_grad` alone would draw new ones: the gradients would then be those of
    another dropout mask than the outputs, without a word.
    """

    def __init__(self) -> None:
        self.seeds: list[tf.Tensor] = []
        self.again: Iterator[tf.Tensor] | None = None

    def next(self, draw: Callable[[], tf.Tensor]) -> tf.Tensor:
        if self.again is not None:
            return next(self.again)
        self.seeds.append(draw())
        return self.seeds[-1]


_drawing: contextvars.ContextVar[_Draws | None] = contextvars.ContextVar("drawing", default=None)


@contextlib.contextmanager
def recomputed_blocks(groups: Groups, on: bool = True) -> Iterator[None]:
    """Within it, training keeps of each block only what goes in and what comes out.

    What lies between is computed again in the backward pass (Chen et al. 2016,
    arXiv:1604.06174), with the same random numbers: the gradients are those without it.
    Enter it before the first step; a train step made within keeps doing so.

    Args:
        groups: of the model that trains.
        on: False changes nothing.

    Raises:
        UserError: if a block is no single layer.
    """
    units = block_layers(groups) if on else []
    draw = keras.random.SeedGenerator.next
    own = [vars(layer).get("call") for layer in units]

    def drawn(generator: keras.random.SeedGenerator, ordered: bool = True) -> tf.Tensor:
        draws = _drawing.get()
        if draws is None:
            return draw(generator, ordered)
        return draws.next(lambda: draw(generator, ordered))

    try:
        if units:
            keras.random.SeedGenerator.next = drawn
        for layer in units:
            layer.call = _recomputed(layer, layer.call)
        yield
    finally:
        keras.random.SeedGenerator.next = draw
        for layer, call in zip(units, own, strict=True):
            del layer.call
            if call is not None:
                layer.call = call


def block_layers(groups: Groups) -> list[keras.layers.Layer]:
    """The layer, or nested model, that each block is, but for what counts to it beside.

    Raises:
        UserError: if a block is no single layer.
    """
    nested = [x for x in groups.model._flatten_layers(include_self=False) if graph_of(x)]
    found = []
    for name, block in zip(groups.names, groups.blocks, strict=True):
        own = {id(v) for layer in block for v in layer.weights}
        made = [layer for layer in block if composite(layer)]
        made += [x for x in nested if x.weights and own.issuperset(map(id, x.weights))]
        largest = max(made, key=size, default=None)
        if largest is None or 2 * size(largest) <= sum(size(layer) for layer in block):
            raise UserError(
                f"gradient_checkpointing needs blocks that are layers or nested models; {name} of "
                f'the model "{groups.model.name}" is a stretch of its graph: '
                f"{listed(layer.name for layer in block)}. Write each block as one keras layer, or "
                "leave it off."
            )
        found.append(largest)
    return found


def check_recomputable(groups: Groups, inputs: Any = None) -> None:
    """Traces a step of training in which the blocks are computed again; runs nothing.

    Args:
        groups: of a model whose `trainable` is as it will train.
        inputs: a batch, for a model that does not say what it takes.

    Raises:
        UserError: if a block is no single layer, adds a loss, or does what must not be
            done twice.
    """
    model = groups.model

    def step(x: Any) -> list[tf.Tensor | None]:
        with tf.GradientTape() as tape:
            outputs = [y for y in keras.tree.flatten(model(x, training=True)) if _floats(y)]
        weights = [v.value for v in model.trainable_variables]
        return tape.gradient(outputs, weights)

    replicas = tf.distribute.get_strategy()  # whose variables are known to each by itself
    with recomputed_blocks(groups):
        run = tf.function(lambda x: replicas.run(step, args=(x,)), autograph=False)
        run.get_concrete_function(specs_of(model, inputs))


def _recomputed(layer: keras.layers.Layer, call: _Call) -> _Call:
    """The `call` of a layer, whose activations are computed again when it trains."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        training = layer._get_call_context().get_value("training")
        if not training or _drawing.get() is not None:
            return call(*args, **kwargs)
        given = keras.tree.flatten((args, kwargs))
        draws, losses = _Draws(), len(layer.losses)
        first: list[Any] = []  # what the first run gives, in its own form

        def run(*floats: tf.Tensor) -> list[tf.Tensor]:
            left = iter(floats)
            filled, named = keras.tree.pack_sequence_as(
                (args, kwargs), [_as(next(left), x) if _floats(x) else x for x in given]
            )
            if first:
                outputs = _again(layer, draws, floats, filled, named)
            else:
                with _using(draws):
                    outputs = call(*filled, **named)
                first.append(outputs)
            return [y for y in keras.tree.flatten(outputs) if _floats(y)]

        found = iter(tf.recompute_grad(run)(*(x for x in given if _floats(x))))
        if len(layer.losses) > losses:
            raise UserError(_refusal(layer, "adds a loss of its own"))
        return keras.tree.map_structure(
            lambda y: _as(next(found), y) if _floats(y) else y, first[0]
        )

    return wrapped


def _again(
    layer: keras.layers.Layer,
    draws: _Draws,
    floats: tuple[tf.Tensor, ...],
    args: tuple,
    kwargs: dict[str, Any],
) -> Any:
    """Calls a layer with the seeds of its first call, once its inputs are there anew."""
    # Without waiting for them, what hangs on seeds alone would be kept from the first call.
    with tf.control_dependencies(floats):
        draws.again = iter([tf.identity(seed) for seed in draws.seeds])
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    before = len(graph.get_operations()) if graph else 0
    # By way of `__call__`, for the types that it casts to and for `training` inside.
    with _using(draws):
        outputs = layer(*args, **kwargs | {"training": True})
    if graph and (does := effects(graph, before)):
        raise UserError(_refusal(layer, f"would do twice what counts once: {', '.join(does)}"))
    return outputs


def effects(graph: tf.Graph, start: int = 0) -> list[str]:
    """The kinds of operations in a graph that do more than compute from their inputs."""
    found = []
    for operation in graph.get_operations()[start:]:
        if operation.type in _NESTS:
            names = [a.name for a in operation.op_def.attr if a.type == "func"]
            called = [graph._get_function(operation.get_attr(name).name) for name in names]
            found += [kind for function in called for kind in effects(function.graph)]
        elif operation.op_def.is_stateful and operation.type not in _READS:
            found.append(operation.type)
    return sorted(set(found))


def _floats(x: Any) -> bool:
    """Whether gradients flow through it."""
    return tf.is_tensor(x) and x.dtype.is_floating


def _as(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """A tensor with the mask that Keras has put on another."""
    if (mask := getattr(like, "_keras_mask", None)) is not None:
        x._keras_mask = mask
    return x


def _refusal(layer: keras.layers.Layer, does: str) -> str:
    return (
        f"gradient_checkpointing computes the layer {layer.name} ({type(layer).__name__}) twice in "
        f"each step, but it {does}. Leave gradient_checkpointing off, or change the layer."
    )


@contextlib.contextmanager
def _using(draws: _Draws) -> Iterator[None]:
    token = _drawing.set(draws)
    try:
        yield
    finally:
        _drawing.reset(token)
