"""A functional model laid open into steps that can be executed one by one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any

import keras

from tf_finetune.model.flow import graph_of, has_kernel

Values = dict[Hashable, Any]


@dataclasses.dataclass(slots=True, eq=False)
class Step:
    """One call of a layer, or of an operation without weights.

    Attributes:
        operation: what is called.
        node: Keras's own record of the call.
        reads: keys of the tensors that it takes.
        writes: keys of those that it gives.
    """

    operation: Any
    node: Any
    reads: list[Hashable]
    writes: list[Hashable]

    @property
    def layer(self) -> keras.layers.Layer | None:
        """What is called, where that is a layer."""
        return self.operation if isinstance(self.operation, keras.layers.Layer) else None

    @property
    def weights(self) -> list[keras.Variable]:
        """Those of the layer."""
        return self.layer.weights if self.layer else []

    def run(self, values: Values, training: bool | None) -> None:
        """Adds what it gives to `values`."""
        args, kwargs = self.arguments(values)
        if training is not None and "training" in getattr(self.operation, "_call_context_args", ()):
            kwargs["training"] = training  # whatever it was called with, as Keras does
        found = keras.tree.flatten(self.operation(*args, **kwargs))
        values.update(zip(self.writes, found, strict=True))

    def arguments(self, values: Values) -> tuple[Any, dict[str, Any]]:
        """What it is called with."""
        taken = zip(self.node.input_tensors, self.reads, strict=True)
        args, kwargs = self.node.arguments.fill_in({id(t): values[key] for t, key in taken})
        return args, dict(kwargs)


class Entry(Step):
    """What a nested graph does with one of its inputs before anything else.

    Its operation is the graph's symbolic input.
    """

    @property
    def layer(self) -> None:
        """None: a symbol is no layer."""
        return None

    def run(self, values: Values, training: bool | None) -> None:
        x = values[self.reads[0]]
        values[self.writes[0]] = keras.ops.convert_to_tensor(x, dtype=self.operation.dtype)


@dataclasses.dataclass(slots=True, kw_only=True, eq=False)
class Steps:
    """A model as steps, in the order in which Keras executes them.

    Attributes:
        model: which they are of.
        all: the steps.
        inputs: keys of the inputs, by their names.
        outputs: keys of what the model gives.
        tensors: the symbolic tensor behind each key.
        shapes: of each, with the size of the batch; more may be fixed than a symbol inside a
            nested graph says, which fits other sizes of pictures too.
    """

    model: keras.Model
    all: list[Step]
    inputs: dict[str, Hashable]
    outputs: list[Hashable]
    tensors: dict[Hashable, keras.KerasTensor]
    shapes: dict[Hashable, tuple[int | None, ...]]

    def given(self, x: Any) -> Values:
        """The inputs of a batch, in any form that the model takes, by their keys."""
        flat = graph_of(self.model)._standardize_inputs(x)
        return dict(zip(self.inputs.values(), flat, strict=True))

    def packed(self, outputs: Sequence[Any]) -> Any:
        """Outputs in the form in which the model gives them."""
        found = keras.tree.pack_sequence_as(graph_of(self.model)._outputs_struct, [*outputs])
        single = isinstance(found, list | tuple) and len(found) == 1
        return found[0] if single else found


def is_graph(model: Any) -> bool:
    """Whether a model does what its graph says, and nothing else."""
    graph = graph_of(model)
    # A `call` of its own may do anything.
    calls = [type(x).call.__qualname__ for x in (model, graph)] if graph is not None else ["none"]
    return all(name in ("Functional.call", "Sequential.call") for name in calls)


def laid_open(model: keras.Model) -> Steps:
    """The steps of a model for which `is_graph` holds."""
    graph = graph_of(model)
    inputs: dict[str, Hashable] = {f"input_{i}": ("input", i) for i in range(len(graph.inputs))}
    keys = list(inputs.values())
    tensors = dict(zip(keys, graph.inputs, strict=True))
    steps, outputs = _opened(graph, keys, tensors)
    shapes = _shapes(steps, tensors)
    return Steps(
        model=model, all=steps, inputs=inputs, outputs=outputs, tensors=tensors, shapes=shapes
    )


def _shapes(
    steps: Sequence[Step], tensors: dict[Hashable, keras.KerasTensor]
) -> dict[Hashable, tuple[int | None, ...]]:
    """Of each tensor, where a nested graph is called on something more exact than its input."""
    specs = dict(tensors)
    for step in steps:
        if isinstance(step, Entry):
            shape = specs[step.reads[0]].shape
            specs[step.writes[0]] = keras.KerasTensor(shape, dtype=step.operation.dtype)
        elif [specs[key].shape for key in step.reads] != [x.shape for x in step.node.input_tensors]:
            args, kwargs = step.arguments(specs)
            try:
                found = keras.tree.flatten(step.operation.compute_output_spec(*args, **kwargs))
            except (TypeError, ValueError, NotImplementedError):  # it cannot tell: as it was said
                continue
            specs.update(zip(step.writes, found, strict=True))
    return {key: tuple(spec.shape) for key, spec in specs.items()}


def _opened(
    graph: Any, keys: list[Hashable], tensors: dict[Hashable, keras.KerasTensor]
) -> tuple[list[Step], list[Hashable]]:
    """The steps of a graph that is given the tensors of `keys`, and the keys of its outputs."""
    scope = object()  # a model may be called twice
    known = dict(zip(map(id, graph.inputs), keys, strict=True))
    steps: list[Step] = []
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input or any(id(t) not in known for t in node.input_tensors):
                continue
            reads = [known[id(t)] for t in node.input_tensors]
            written: list[Hashable] = [(scope, id(t)) for t in node.outputs]
            inner = graph_of(node.operation)
            if inner is not None and _opens(node, inner):
                entered: list[Hashable] = [(scope, id(node), i) for i in range(len(inner.inputs))]
                tensors.update(zip(entered, inner.inputs, strict=True))
                for t, read, write in zip(inner.inputs, reads, entered, strict=True):
                    steps.append(Entry(t, node, [read], [write]))
                more, written = _opened(inner, entered, tensors)
                steps += more
            else:
                tensors.update(zip(written, node.outputs, strict=True))
                steps.append(Step(node.operation, node, reads, written))
            known.update(zip(map(id, node.outputs), written, strict=True))
    return steps, [known[id(t)] for t in graph.outputs]


def _opens(node: Any, inner: Any) -> bool:
    """Whether a nested model can be executed step by step, just as Keras would."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    # A call of the object's own is that of a block which is computed again.
    own = "call" in vars(node.operation)
    if own or not is_graph(node.operation) or len(args) != 1:
        return False
    others = [x for x in keras.tree.flatten(kwargs) if isinstance(x, keras.KerasTensor)]
    masked = any(getattr(t, "_keras_mask", None) is not None for t in node.input_tensors)
    if others or masked:  # which goes on to what it gives
        return False
    given, wanted = ([x, *keras.tree.flatten(x)] for x in (args[0], inner._inputs_struct))
    names = [sorted(x[0]) if isinstance(x[0], dict) else None for x in (given, wanted)]
    ranks = [[len(t.shape) if t is not None else None for t in x[1:]] for x in (given, wanted)]
    return names[0] == names[1] and ranks[0] == ranks[1]


def multiply_adds(steps: Sequence[Step], model: Steps, tokens: float) -> float:
    """About how many multiplications steps take for an example, by their kernels.

    Args:
        steps: some of a model's.
        model: all of them.
        tokens: what an axis of no fixed length counts as.
    """
    total = 0.0
    for step in steps:
        if step.layer is None or not has_kernel(step.layer):
            continue
        kernels = sum(math.prod(v.shape) for v in step.weights if len(v.shape) > 1)
        shapes = [model.shapes[key] for key in step.writes]
        if shapes and len(shapes[0]) == 2:  # such as the last state of a recurrent layer
            shapes = [model.shapes[key] for key in step.reads[:1]]
        places = [[n or tokens for n in shape[1:-1]] for shape in shapes]
        total += kernels * max(map(math.prod, places), default=1.0)
    return total
