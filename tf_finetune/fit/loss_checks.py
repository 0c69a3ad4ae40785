"""Whether a loss fits what the model gives and the labels are, before anything trains."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.fit.data_copy import batches_of, calls_python
from tf_finetune.model.flow import graph_of

# Losses of classes by Keras's names, which a function and a class share.
_SPARSE, _ONE_HOT, _BINARY = (
    "sparsecategoricalcrossentropy",
    "categoricalcrossentropy",
    "binarycrossentropy",
)
_CLASSES = {
    _SPARSE: "SparseCategoricalCrossentropy",
    _ONE_HOT: "CategoricalCrossentropy",
    _BINARY: "BinaryCrossentropy",
}
_REGRESSION = ("meansquarederror", "meanabsoluteerror", "huber", "logcosh")
# Larger data sets, in bytes, are not copied to look at their first batch.
_MOST = 2**28


def check_loss(model: keras.Model, loss: Any, train: Any) -> None:
    """Raises `UserError` where a loss of Keras cannot be meant for a model and its labels.

    What is seen: a softmax or sigmoid at the model's end with `from_logits=True`, a plain
    Dense with `from_logits=False`; the shape of labels; and their values, those of
    arrays, and of the first batch of other data, which is read from a copy.

    Args:
        model: built. One whose outputs are not known is not looked at.
        loss: as in `keras.Model.compile`; for several outputs a list or dict.
        train: as in `fit_phases`.
    """
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    names = _names(model, outputs)
    losses = _parts(loss, names)
    if not any(_known(each)[0] for each in losses):
        return
    given = zip(_parts(_described(train), names), _parts(_labels(train), names), strict=True)
    for name, output, each, (spec, labels) in zip(names, outputs, losses, given, strict=True):
        try:
            _check_output(output, each, spec, None if labels is None else np.asarray(labels))
        except UserError as error:
            raise UserError(f"output {name}: {error}" if len(names) > 1 else str(error)) from None


def _check_output(output: Any, loss: Any, spec: Any, labels: np.ndarray | None) -> None:
    name, from_logits = _known(loss)
    if not name:
        return
    _check_end(name, from_logits, _end_of(output))
    shape = _shape(spec) or ((None, *labels.shape[1:]) if labels is not None else None)
    if shape is None:
        return
    _check_shape(name, shape, tuple(output.shape))
    if labels is not None and labels.dtype.kind in "iufb" and labels.size:
        _check_values(name, labels, output.shape[-1], getattr(loss, "ignore_class", None))


def _names(model: keras.Model, outputs: list) -> list[str]:
    """What Keras calls the outputs in dicts of losses and labels."""
    form = getattr(model, "_outputs_struct", None)
    if isinstance(form, dict):
        return [next((k for k, v in form.items() if v is output), "") for output in outputs]
    return list(getattr(model, "output_names", None) or [""] * len(outputs))


def _parts(whole: Any, names: list[str]) -> list:
    """Those of a structure that belong to the outputs; None where that is not known."""
    if isinstance(whole, dict):
        return [whole.get(name) for name in names]
    if len(names) == 1:
        return [whole]
    split = isinstance(whole, tuple | list) and len(whole) == len(names)
    return list(whole) if split else [None] * len(names)


@contextlib.contextmanager
def labels_explained() -> Iterator[None]:
    """Turns TensorFlow's error for a label that is no class into a `UserError`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(
            r"label value of (\S+) which is outside .*? range of (\S+ \S+)", str(error)
        )
        if not found:
            raise
        raise UserError(
            f"labels hold {found[1]}, but the model gives classes in {found[2].rstrip('.')}; "
            "number the labels so, or give the last layer more units."
        ) from None


def _known(loss: Any) -> tuple[str, bool]:
    """The name of a loss of Keras, empty for any other, and whether it takes logits."""
    found = keras.losses.get(loss) if isinstance(loss, str) else loss
    kind = found if hasattr(found, "__name__") else type(found)
    name = kind.__name__.replace("_", "").lower()
    if name not in (*_CLASSES, *_REGRESSION) or not kind.__module__.startswith("keras."):
        return "", False
    config = found.get_config() if isinstance(found, keras.losses.Loss) else {}
    return name, bool(config.get("from_logits", False))


def _end_of(output: Any) -> str:
    """`softmax`, `sigmoid`, or `linear` for a layer of weights without; else empty."""
    operation = output._keras_history.operation
    while (graph := graph_of(operation)) is not None and len(graph.outputs) == 1:
        operation = graph.outputs[0]._keras_history.operation
    activation = getattr(getattr(operation, "activation", None), "__name__", "")
    end = activation or type(operation).__name__.lower()
    if end == "linear" and not hasattr(operation, "kernel"):
        return ""
    return end if end in ("softmax", "sigmoid", "linear") else ""


def _check_end(name: str, from_logits: bool, end: str) -> None:
    if name not in _CLASSES or not end:
        return
    if from_logits and end != "linear":
        raise UserError(
            f"loss has from_logits=True, but the model ends with a {end}; set from_logits=False, "
            "or leave the activation out of the last layer."
        )
    if not from_logits and end == "linear":
        right = "sigmoid" if name == _BINARY else "softmax"
        raise UserError(
            f"loss takes probabilities, but the model's last layer has no activation; give "
            f"{_CLASSES[name]}(from_logits=True), or that layer a {right}."
        )


def _check_shape(name: str, labels: tuple, outputs: tuple) -> None:
    """Compares what follows the batch's axis."""
    given, wanted = labels[1:], outputs[1:]
    k = wanted[-1] if wanted else 1
    if name == _SPARSE:
        if k == 1:
            raise UserError(
                "loss is SparseCategoricalCrossentropy, but the model gives one value an example; "
                "give BinaryCrossentropy, or the last layer one unit for each class."
            )
        if _same(given, wanted) and k is not None:
            raise UserError(
                f"loss is SparseCategoricalCrossentropy, but labels have the shape {labels} of the "
                "outputs, as one-hot labels have; give CategoricalCrossentropy."
            )
        wanted = wanted[:-1]
    elif name == _ONE_HOT and not _same(given, wanted) and _same(given, wanted[:-1]):
        raise UserError(
            f"loss is CategoricalCrossentropy, but labels have the shape {labels}, as whole "
            "numbers have; give SparseCategoricalCrossentropy, or one-hot labels."
        )
    if not _same(given, wanted):
        raise UserError(
            f"labels have the shape {labels}, but the model gives {outputs}; for this loss "
            f"({name}) they must be {(None, *wanted)}."
        )


def _same(given: tuple, wanted: tuple) -> bool:
    """Whether shapes agree, but for a last axis of 1, which Keras adds or takes away."""
    given, wanted = (s[:-1] if s and s[-1] == 1 else s for s in (given, wanted))
    return len(given) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(given, wanted, strict=True)
    )


def _check_values(name: str, labels: np.ndarray, k: int | None, ignored: int | None) -> None:
    low, high = float(labels.min()), float(labels.max())
    if name == _SPARSE and k is not None:
        kept = labels[labels != ignored] if ignored is not None else labels
        wrong = kept[(kept < 0) | (kept >= k) | (kept != np.floor(kept))]
        if wrong.size:
            raise UserError(
                f"labels hold {wrong[0]:g}, but the model gives {k} classes, whose labels are "
                f"whole numbers from 0 to {k - 1}; number them so, or give the last layer more "
                "units."
            )
    elif name in _CLASSES and (low < 0 or high > 1):
        raise UserError(
            f"labels hold {low if low < 0 else high:g}, but {_CLASSES[name]} takes 0 to 1; mend "
            "the labels, or choose another loss."
        )


def _described(train: Any) -> Any:
    """Labels, or specs of them, as far as they are known before reading."""
    if isinstance(train, tf.data.Dataset):
        spec: Any = train.element_spec
        return spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    return train[1] if isinstance(train, tuple | list) else None


def _shape(labels: Any) -> tuple | None:
    """With the batch's axis in front."""
    if isinstance(labels, tf.TypeSpec):
        known = isinstance(labels, tf.TensorSpec) and labels.shape.rank is not None
        return tuple(labels.shape) if known else None
    return None if labels is None else (None, *np.shape(labels)[1:])


def _labels(train: Any) -> Any:
    """All of them, or those of the first batch; None where they cannot be looked at."""
    if isinstance(train, tuple | list):
        return train[1]
    if isinstance(train, tf.data.Dataset) and _size(train) > _MOST:
        return None
    try:
        if calls_python(train):
            return None
        with contextlib.closing(batches_of(train, 1)) as own:
            return next(own)[1]
    except UserError:  # it cannot be copied
        return None


def _size(data: Any) -> int:
    """Bytes of the arrays that a data set holds; a copy of it holds them once more."""
    own = sum(int(np.prod(t.shape)) * t.dtype.size for t in getattr(data, "_tensors", ()))
    return own + sum(_size(part) for part in data._inputs())
