"""By what the exports of a run are made and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tf_finetune.assemble import Setup
from tf_finetune.exports.parity import PARITY_TEXTS
from tf_finetune.exports.picture_graphs import Examples
from tf_finetune.results.evaluate import INTERVALS, row_goodness
from tf_finetune.results.judgement import Judgement


def examples_of(setup: Setup, judgement: Judgement) -> Any:
    """What `export_all` takes for a run that has just been judged."""
    splits = setup.prepared.splits
    if setup.task.column != "image":
        return setup.examples(splits["test"][:PARITY_TEXTS])
    labels, outputs = judgement.labels["test"], judgement.outputs["test"]
    paths = setup.prepared.table["image"]
    return picture_examples(setup.task.kind, setup.examples, paths, splits, labels, outputs)


def picture_examples(
    kind: str,
    pixels: Callable[[np.ndarray], np.ndarray],
    paths: pa.ChunkedArray,
    splits: Mapping[str, np.ndarray],
    labels: np.ndarray,
    outputs: np.ndarray,
) -> Examples:
    """Pictures of a run, and the figure that counts.

    Args:
        kind: of the task.
        pixels: see `Examples`.
        paths: of all rows.
        splits: rows of `train` and `test`.
        labels: of the test rows.
        outputs: of the model for the test rows.
    """

    def score(outputs: np.ndarray, which: Any = slice(None)) -> tuple[str, float]:
        # Of errors their mean, which is not negative.
        return INTERVALS[kind][0], abs(float(row_goodness(kind, outputs, labels[which]).mean()))

    return Examples(
        pixels=pixels,
        paths=lambda rows: paths.take(pa.array(rows)).to_pylist(),
        train=splits["train"],
        test=splits["test"],
        outputs=outputs,
        score=score,
    )
