"""A pass over rows through the frozen part of a network, on all replicas."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tf_finetune.data.pipeline import Store, evaluation_dataset
from tf_finetune.fit.activations import NotKept, Writer
from tf_finetune.fit.replicas import on_all_replicas
from tf_finetune.fit.strategy import so_on_all_hosts
from tf_finetune.model.slicing import Cut, run_prefixes

Writers = Mapping[int, contextlib.AbstractContextManager[Writer]]


def frozen_pass(
    cuts: Sequence[Cut],
    store: Store,
    rows: np.ndarray,
    batch: int,
    is_kept: np.ndarray,
    writers: Writers,
) -> Iterator[dict[str, tf.Tensor]]:
    """Runs what is frozen over rows, and writes what cuts keep of some of them.

    Each replica computes some rows of each batch, and every host gets, and writes, all: in
    each epoch the rows of a host are others.

    Args:
        cuts: of the same network.
        store: of the rows' inputs.
        rows: in the order of `evaluation_order`.
        batch: rows a step.
        is_kept: by row of the store, whether it is written.
        writers: of cuts, by their places.

    Yields:
        What the last cut keeps, batch by batch.

    Raises:
        NotKept, OSError: at the end, if some host could not write.
    """
    labels = np.zeros(int(rows.max()) + 1, "int8")
    dataset = evaluation_dataset(store, labels, rows, batch_size=batch)
    step = tf.function(
        on_all_replicas(lambda x: run_prefixes(cuts, x)),
        input_signature=[dataset.element_spec[0]],
        autograph=False,
    )
    troubles: list[Exception] = []
    with contextlib.ExitStack() as stack:
        opened: dict[int, Writer] = {}
        with held_back(troubles):
            opened = {i: stack.enter_context(writer) for i, writer in writers.items()}
        raise_on_all_hosts(troubles)
        for number, (x, _) in enumerate(dataset):
            found = step(x)
            chosen = rows[number * batch : (number + 1) * batch]
            there = is_kept[chosen]
            padded = int(tf.nest.flatten(x)[0].shape[1])
            with held_back(troubles):
                for i, writer in opened.items() if not troubles else ():
                    arrays = {name: array.numpy()[there] for name, array in found[i].items()}
                    writer.add(arrays, store.lengths[chosen[there]], padded)
            yield found[-1]
        raise_on_all_hosts(troubles)


@contextlib.contextmanager
def held_back(troubles: list[Exception]) -> Iterator[None]:
    """Within a pass other hosts would wait for one that gives up."""
    try:
        yield
    except (NotKept, OSError) as error:
        troubles.append(error)


def raise_on_all_hosts(troubles: Sequence[Exception]) -> None:
    """Raises the first of what was held back, on every host where one has something."""
    if not so_on_all_hosts(not troubles):
        raise troubles[0] if troubles else NotKept("another host could not keep it")
