"""Where the blocks of a backbone begin; the rule stands at the top of `blocks.py`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterator
from typing import Any

import keras

from tf_finetune.model.flow import (
    Call,
    calls_of,
    cuts,
    graph_of,
    has_kernel,
    kind,
    layers_of,
    size,
    sublayers,
    total,
    unseen,
)

# The index of a call that opens a block, and the block's name.
Starts = list[tuple[int, str]]

_NUMBERED = re.compile(r"[A-Za-z]+_?\d+[a-z]?(?=_)")
_NUMBER = re.compile(r"\d+[a-z]?(?=_|$)")


def block_starts(body: list[Call]) -> tuple[list[Call], Starts]:
    """Finds the blocks of a backbone.

    Args:
        body: the calls in it.

    Returns:
        The calls, where a layer may have been opened for the layers that it is made of,
        and which of them open a block.
    """
    opened = body
    while True:
        if starts := _repeated(opened):
            return opened, starts
        largest = max(opened, key=lambda call: size(call.layer, tables=False))
        most = 2 * size(largest.layer, tables=False) > total(opened)
        if not most or not composite(largest.layer):
            return body, _named(body) or _stretches(body) or _kernels(body)
        inner, _ = calls_of(largest.layer, largest.reads, (*largest.inside, largest.layer))
        at = opened.index(largest)
        opened = [*opened[:at], *inner, *opened[at + 1 :]]


def _repeated(calls: list[Call]) -> Starts:
    """Blocks as repeated layers that are made of layers, or repeated nested models."""
    for depth in range(1 + max(len(call.inside) for call in calls)):
        entered = _entered(calls, depth)
        made = [(i, x) for i, x in entered if composite(x) and size(x, tables=False)]
        sizes: dict[Hashable, int] = {}
        for unit in unseen((unit for _, unit in made), set()):
            sizes[kind(unit)] = sizes.get(kind(unit), 0) + size(unit, tables=False)
        kinds = [kind(unit) for _, unit in made]
        rows = {one for one, following in itertools.pairwise(kinds) if one == following}
        twice = [one for one in sizes if kinds.count(one) > 1]
        for chosen in (rows, {max(twice, key=sizes.__getitem__)} if twice else set()):
            if 2 * sum(sizes[one] for one in chosen) > total(calls):
                seen: set[int] = set()
                found = [(i, unit) for i, unit in made if kind(unit) in chosen]
                return [(i, unit.name) for i, unit in found if unseen([unit], seen)]
    return []


def composite(layer: Any) -> bool:
    """Whether a layer is made of layers; Keras's own, such as attention, are units."""
    own = type(layer).__module__.startswith("keras.") and graph_of(layer) is None
    return bool(sublayers(layer)) and not own


def _entered(calls: list[Call], depth: int) -> Iterator[tuple[int, Any]]:
    """Where each nested model at a depth, or layer not so deep, is entered."""
    previous = None
    for i, call in enumerate(calls):
        unit = (*call.inside, call.layer)[: depth + 1][-1]
        if unit is not previous or unit is call.layer:
            yield i, unit
        previous = unit


def _named(calls: list[Call]) -> Starts:
    """Blocks as the names of layers tell them."""
    found: dict[str, Starts] = {}
    for i, call in enumerate(calls):
        name = call.layer.name if isinstance(call.layer, keras.layers.Layer) else ""
        for match in _NUMBERED.finditer(name):
            key = name[: match.end()]
            found.setdefault(_NUMBER.sub("#", key), []).append((i, key))
    weighted = sum(size(layer) > 0 for layer in layers_of(calls))
    # The longest chain of numbers first.
    for _, entries in sorted(found.items(), key=lambda item: -item[0].count("#")):
        runs = [next(run) for _, run in itertools.groupby(entries, key=lambda entry: entry[1])]
        keys = {key for _, key in runs}
        covered = sum(size(layer) > 0 for layer in layers_of(calls[i] for i, _ in entries))
        if 1 < len(keys) == len(runs) and 2 * covered > weighted:
            return runs
    return []


def _stretches(calls: list[Call]) -> Starts:
    """Blocks as stretches of the graph in which paths branch and join."""
    starts, covered = [], 0
    for before, cut in itertools.pairwise([-1, *cuts(calls)]):
        weight = total(calls[before + 1 : cut + 1])
        if cut - before > 1 and weight:
            # Named after what joins the paths: `mixed3`, `add_7`.
            starts.append((before + 1, calls[cut].layer.name))
            covered += weight
    return starts if len(starts) > 1 and 2 * covered > total(calls) else []


def _kernels(calls: list[Call]) -> Starts:
    """Blocks as single layers with a kernel."""
    found = [(i, call.layer) for i, call in enumerate(calls) if has_kernel(call.layer)]
    seen: set[int] = set()
    return [(i, layer.name) for i, layer in found if unseen([layer], seen)]
