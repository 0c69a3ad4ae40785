"""Which weights train: the one owner of `trainable`."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator

import keras

from tf_finetune.errors import UserError
from tf_finetune.model.blocks import Groups, listed
from tf_finetune.phase_checks import BATCH_NORM, check_selector
from tf_finetune.value_checks import nearest, one_of

# What Dropout and its kin, GaussianNoise, and stochastic depth call their rate.
_RATES = ("rate", "stddev", "drop_path_rate", "drop_prob")
_CELL_RATES = ("dropout", "recurrent_dropout")


def set_trainable(groups: Groups, train: str, batch_norm: str = "freeze") -> None:
    """Opens what `train` selects and closes all the rest, whatever was set before.

    Weights that never train by gradient, such as moving statistics, stay closed.

    Args:
        groups: of the model that will be compiled next. Keras reads `trainable`
            when it compiles; changing it later has no effect on a running `fit`.
        train: `head`; `all`; `last:K`, the head and the last K blocks; `from:NAME`,
            everything from the block or layer of that name to the end; `norm`, the
            scales and offsets of normalisation, and the head; `bias`, all biases, those
            of normalisation too, and the head (BitFit, Ben Zaken et al. 2021,
            arXiv:2106.10199); `re:PATTERN`, what the regular expression finds in the
            paths of variables, and nothing else.
        batch_norm: for BatchNormalization outside of the head. `freeze` closes it, and
            it normalises by its moving statistics. With `affine` it does that too, but
            its scale and offset train where they are selected. With `update` it trains
            where it is selected, normalises by the batch, and its statistics move.

    Raises:
        UserError: if there is no such selector, block or layer, or nothing is selected;
            everything is then left as it was.
    """
    one_of("batch_norm", batch_norm, BATCH_NORM)
    found = selected(groups, train)
    chosen = {id(v) for v in found}
    layers = groups.model._flatten_layers()
    if not any(id(v) in chosen for layer in layers for v in layer._trainable_variables):
        raise UserError(
            f'train="{train}" selects only variables that no gradient trains, such as '
            f"{found[0].path}; select others too."
        )
    still = [] if batch_norm == "update" else _batch_norms(groups)
    if batch_norm == "freeze":
        closed = {id(v) for layer in still for v in layer.weights}
        _check_left(groups, train, chosen, chosen - closed)
        chosen -= closed
    held = {id(layer) for layer in still}
    # Keras hands a layer's flag down to its sublayers; those with the most go first.
    for layer in sorted(layers, key=lambda layer: -len(layer._flatten_layers())):
        weights = layer.weights
        opened = not weights or any(id(v) in chosen for v in weights)
        layer.trainable = opened and id(layer) not in held
    for layer in layers:
        for variable in layer._trainable_variables:
            variable.trainable = id(variable) in chosen


def selected(groups: Groups, train: str) -> list[keras.Variable]:
    """The weights that `train` stands for, whether or not they can train by gradient.

    Args:
        groups: of a model.
        train: as in `set_trainable`.

    Raises:
        UserError: as `set_trainable` does.
    """
    check_selector("train", train)
    parts = groups.weights()
    body, head = [v for part in parts[:-1] for v in part], parts[-1]
    kind, _, value = train.partition(":")
    if kind == "all":
        return body + head
    if kind == "last":
        return _last(groups, int(value))
    if kind == "from":
        return _from(groups, value)
    if kind == "re":
        return _searched(groups, value)
    if kind == "head":
        if not head:
            raise UserError(
                f'train="head", but the model "{groups.model.name}" has no head: all of it counts '
                "as backbone. Say which part is the backbone, or train all or last:K."
            )
        return head
    found = {"norm": _scales_and_offsets, "bias": _biases, "lora": _adapters}[kind](groups)
    inner = [v for v in body if id(v) in found]
    if not inner and kind == "lora":
        raise UserError(
            f'train="lora", but the model "{groups.model.name}" has no adapters; call add_lora '
            "first."
        )
    if not inner:
        raise UserError(
            f'train="{train}" selects nothing in the backbone, which has '
            f"{', '.join(sorted({v.name for v in body}))}; choose head, all, last:K, from:NAME or "
            "re:PATTERN."
        )
    return inner + head


def _last(groups: Groups, count: int) -> list[keras.Variable]:
    blocks = len(groups.blocks)
    if count > blocks:
        mend = f"last:{blocks} or less" if blocks else "head or all"
        raise UserError(
            f'train="last:{count}", but the backbone has {blocks} blocks; set {mend} in '
            f"config.fit.train or the Phase. Blocks: {listed(groups.names)}."
        )
    return [v for part in groups.weights()[1 + blocks - count :] for v in part]


def _from(groups: Groups, name: str) -> list[keras.Variable]:
    layers = [layer for part in groups.parts for layer in part]
    blocks = zip(groups.names, groups.blocks, strict=True)
    found = [block[0] for called, block in blocks if called == name]
    found = found or [layer for layer in layers if layer.name == name]
    if not found:
        names = [layer.name for layer in layers]
        raise UserError(
            f'train="from:{name}", but there is no block or layer of that name.'
            f"{nearest(name, [*groups.names, *names])} Blocks: {listed(groups.names)}; layers: "
            f"{listed(names)}."
        )
    if len(found) > 1:
        raise UserError(
            f'train="from:{name}", but {len(found)} have that name; choose another, last:K or '
            "re:PATTERN."
        )
    start = [id(layer) for layer in layers].index(id(found[0]))
    before = {id(v) for layer in layers[:start] for v in layer.weights}
    return [v for layer in layers[start:] for v in layer.weights if id(v) not in before]


def _searched(groups: Groups, pattern: str) -> list[keras.Variable]:
    variables = [v for part in groups.weights() for v in part]
    found = [v for v in variables if re.search(pattern, v.path)]
    if not found:
        # Some from everywhere: the first paths of a model are all of its embeddings.
        some = variables[:: max(1, len(variables) // 6)]
        raise UserError(
            f'train="re:{pattern}" matches none of the {len(variables)} paths of variables, such '
            f"as {', '.join(v.path for v in some)}."
        )
    return found


def _scales_and_offsets(groups: Groups) -> set[int]:
    """The ids of normalisation layers' own weights that can train."""
    layers = groups.model._flatten_layers()
    norms = [layer for layer in layers if "norm" in type(layer).__name__.lower()]
    return {id(v) for layer in norms for v in layer._trainable_variables}


def _adapters(groups: Groups) -> set[int]:
    return {
        id(v)
        for layer in lora_layers(groups.model)
        for v in layer.weights
        if v.name.startswith("lora_")
    }


def _biases(groups: Groups) -> set[int]:
    layers = groups.model._flatten_layers()
    variables = [v for layer in layers for v in layer._trainable_variables]
    return {id(v) for v in variables if re.search(r"(^|_)(bias|beta)$", v.name)}


def _batch_norms(groups: Groups) -> list[keras.layers.BatchNormalization]:
    """Those outside of the head."""
    found = [layer for part in groups.parts[:-1] for x in part for layer in x._flatten_layers()]
    return [layer for layer in found if isinstance(layer, keras.layers.BatchNormalization)]


def _check_left(groups: Groups, train: str, chosen: set[int], left: set[int]) -> None:
    """Refuses to train the head alone where parts of the backbone were asked for."""
    body = {id(v) for part in groups.weights()[:-1] for v in part}
    if chosen & body and not left & body:
        raise UserError(
            f'train="{train}" selects in the backbone only BatchNormalization, which '
            'batch_norm="freeze" keeps frozen; set batch_norm to affine or update.'
        )


@contextlib.contextmanager
def frozen_dropout_off(groups: Groups) -> Iterator[None]:
    """Within it, stem and blocks in which no weight trains run without dropout.

    Keras drops in frozen layers too. Their noise then only slows down what is trained
    on them; without it they give what they give in inference. Enter it after
    `set_trainable` and before the first step, when Keras reads the rates; a step made
    within stays without dropout.
    """
    kept: list[tuple[keras.layers.Layer, str, float]] = []
    for layers, weights in zip(groups.parts[:-1], groups.weights()[:-1], strict=True):
        # A part without weights is not frozen: its noise augments the data.
        if weights and not any(v.trainable for v in weights):
            kept += [
                rate for x in layers for layer in x._flatten_layers() for rate in _rates(layer)
            ]
    try:
        for layer, name, _ in kept:
            setattr(layer, name, 0.0)
        yield
    finally:
        for layer, name, rate in kept:
            setattr(layer, name, rate)


def _rates(layer: keras.layers.Layer) -> Iterator[tuple[keras.layers.Layer, str, float]]:
    """The attributes by which a layer drops or adds noise, with their values."""
    cell = hasattr(layer, "get_dropout_mask")  # of a recurrent layer
    attends = isinstance(layer, keras.layers.Attention)  # Keras's AdditiveAttention too
    for name in _CELL_RATES if cell else (*_RATES, *["dropout"] * attends):
        value = getattr(layer, name, None)
        if isinstance(value, float) and value > 0:
            yield layer, name, value


def drops(model: keras.Model) -> bool:
    """Whether training has any dropout or noise, as the layers' rates now are."""
    return any(True for layer in model._flatten_layers() for _ in _rates(layer))


def is_random(layer: keras.layers.Layer) -> bool:
    """Whether a layer, or one in it, draws random numbers in training, as its rates now are."""
    rated = (*_RATES, *_CELL_RATES)
    return any(
        any(True for _ in _rates(x))
        or (x._seed_generators and not any(hasattr(x, name) for name in rated))
        for x in layer._flatten_layers()
    )


def lora_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model that have an adapter."""
    return [layer for layer in model._flatten_layers() if getattr(layer, "lora_enabled", False)]


def count_parameters(model: keras.Model) -> tuple[int, int]:
    """Trainable and all parameters of a model."""
    return (
        sum(math.prod(v.shape) for v in model.trainable_weights),
        sum(math.prod(v.shape) for v in model.weights),
    )
