"""A data set once more: reading the copy leaves the order of the user's own where it is."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Generator, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_finetune.errors import UserError

# They write to disk, share with other processes, or go on in something that is read.
_SHARED = ("SnapshotDataset", "SaveDataset", "DataService", "Iterator", "QueueDequeue")
_PYTHON = ("PyFunc", "EagerPyFunc")
# An array of a PyDataset that is this large is shared with its copy: it is read alone.
_LARGE = 2**20

# Inputs, targets and weights, each None where there are none.
Batch = tuple[Any, Any, Any]


def batches_of(data: Any, batch_size: int) -> Generator[Batch, None, None]:
    """Batches without end, from the beginning on, which leave `data` as it is.

    Close it, or threads may still call a user's Python code.

    Args:
        data: a tuple of arrays (x, y) or (x, y, sample_weight), which are shuffled, or
            what `copied` takes.
        batch_size: of arrays.

    Raises:
        UserError: for data of another kind, without a batch, or that cannot be copied.
    """
    while True:
        empty = True
        for batch in _once(data, batch_size):
            empty = False
            yield _whole(batch)
        if empty:
            raise UserError("train is empty; give at least one batch.")


def first_inputs(data: Any) -> Any:
    """What a model is called on in the first batch, or tensors without values of that kind.

    Args:
        data: as in `batches_of`; it is not read, only arrays and copies are.

    Raises:
        UserError: for one that neither says what it holds nor can be copied.
    """
    if isinstance(data, tuple | list):
        return keras.tree.map_structure(lambda x: np.asarray(x[:1]), data[0])
    if isinstance(data, tf.data.Dataset):
        spec = data.element_spec[0] if isinstance(data.element_spec, tuple) else data.element_spec
        shapes = [t.shape for t in tf.nest.flatten(spec)]
        if all(s.rank is not None and None not in s[1:] for s in shapes) or calls_python(data):
            return tf.nest.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype.name), spec)
    with contextlib.closing(batches_of(data, 1)) as own:
        return next(own)[0]


def _once(data: Any, batch_size: int) -> Iterator[Any]:
    if isinstance(data, tf.data.Dataset):
        yield from copied(data)
    elif isinstance(data, keras.utils.PyDataset):
        own = copied(data)
        count = own.num_batches
        yield from (own[i] for i in (itertools.count() if count is None else range(count)))
    elif isinstance(data, tuple | list) and 2 <= len(data) <= 3:
        order = np.random.default_rng(0).permutation(len(keras.tree.flatten(data[0])[0]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield keras.tree.map_structure(lambda a, rows=rows: np.asarray(a)[rows], tuple(data))
    else:
        raise UserError(
            f"train is a {type(data).__name__}; give a batched tf.data.Dataset, a "
            "keras.utils.PyDataset, or arrays as a tuple (x, y)."
        )


def _whole(batch: Any) -> Batch:
    if isinstance(batch, tuple | list) and len(batch) <= 3:
        return (*batch, None, None)[:3]
    return batch, None, None


def copied(data: Any) -> Any:
    """A copy of a `tf.data.Dataset` or `keras.utils.PyDataset` with a state of its own.

    What a data set remembers from epoch to epoch is copied: how often it was shuffled
    (from its beginning on), captured variables such as random states, caches in memory.
    A cache on disk is neither read nor written. What Python functions remember that it
    calls is not copied; see `calls_python`.

    Args:
        data: is not read.

    Raises:
        UserError: for one whose state is out of reach.
    """
    if isinstance(data, keras.utils.PyDataset):
        return _copied_sequence(data)
    graph = _graph_of(data)
    if found := sorted({op for op in _operations(graph) if op.startswith(_SHARED)}):
        raise UserError(
            f"train goes through {found[0]}, whose state or files cannot be copied, so that "
            "reading it would change the training after this; give train without it."
        )
    for node in graph.node:
        # Of the same name they would be the ones of `data` itself; of another, new ones.
        for handle in node.attr["value"].tensor.resource_handle_val:
            handle.name += "_copy"
        if node.op.startswith("CacheDataset"):
            _in_memory(graph, node.input[1])
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    return tf.data.experimental.from_variant(variant, data.element_spec)


def calls_python(data: Any) -> bool:
    """Whether reading calls Python functions of the user's, whose state has no copy."""
    return isinstance(data, tf.data.Dataset) and any(
        op in _PYTHON for op in _operations(_graph_of(data))
    )


def _graph_of(data: tf.data.Dataset) -> graph_pb2.GraphDef:
    try:
        graph = tf.raw_ops.DatasetToGraphV2(
            input_dataset=tf.data.experimental.to_variant(data),
            external_state_policy=tf.data.experimental.ExternalStatePolicy.IGNORE.value,
        )
        return graph_pb2.GraphDef.FromString(graph.numpy())
    except tf.errors.OpError as error:
        raise UserError(
            f"train cannot be copied ({error.message}), so that reading it would change the "
            "training after this; give arrays as a tuple (x, y), or a simpler tf.data.Dataset."
        ) from None


def _operations(graph: graph_pb2.GraphDef) -> list[str]:
    return [node.op for part in (graph, *graph.library.function) for node in _nodes(part)]


def _nodes(part: Any) -> Any:
    return part.node if isinstance(part, graph_pb2.GraphDef) else part.node_def


def _in_memory(graph: graph_pb2.GraphDef, file: str) -> None:
    """Empties the constant that names a cache's file."""
    for node in graph.node:
        if node.name == file.split(":")[0]:
            node.attr["value"].tensor.string_val[:] = [b""]


def _copied_sequence(data: keras.utils.PyDataset) -> keras.utils.PyDataset:
    arrays = [v for v in vars(data).values() if isinstance(v, np.ndarray) and v.nbytes >= _LARGE]
    try:
        return copy.deepcopy(data, {id(array): array for array in arrays})
    except Exception as error:  # whatever the user's class holds
        raise UserError(
            f"train is a {type(data).__name__} that cannot be copied ({error}), so that reading it "
            "could change the training after this; give it a __deepcopy__, or a tf.data.Dataset."
        ) from None
