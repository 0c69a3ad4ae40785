"""Whether there is anything to learn from the rows that are left."""

from __future__ import annotations

import numpy as np

from tf_finetune.data import checks
from tf_finetune.data import labels as label_column
from tf_finetune.data.findings import Findings
from tf_finetune.data.splits import SPLITS
from tf_finetune.data.tags import Tags
from tf_finetune.data_checks import LANGUAGE
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig


def refuse_what_cannot_train(
    sides: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    made: dict[str, float],
    findings: Findings,
    data: DataConfig,
    task: str,
    tags: Tags | None,
) -> None:
    """Raises `UserError` where the rows that are left are too few, or of one kind.

    Args:
        sides: of all rows.
        labels: likewise, or their shares.
        names: of the classes.
        made: the splits that are cut off here.
        findings: what was left out, and to add to.
        data: of the run.
        task: of the run.
        tags: of tagged words.
    """
    training = labels[sides == 0]
    if not len(training):
        raise UserError(
            f"No training row is left ({findings.summary()}). Mend the data, or keep such rows "
            "with --config.data.leaks=warn or --config.data.conflicts=warn."
        )
    refuse_one_value(sides, labels, names, data, task, tags)
    if names:
        label_column.refuse_small_classes(
            training, names, data, findings.summary() if findings.kinds() else ""
        )
    if data.retained and not (sides == SPLITS.index("retained")).any():
        raise UserError(
            f'config.data.retained "{data.retained}" has no row that is left '
            f"({findings.summary()}). Give rows that stand in no other split."
        )
    checks.absent_classes(sides, labels, names, made, findings)


def refuse_one_value(
    sides: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, ...],
    data: DataConfig,
    task: str,
    tags: Tags | None,
) -> None:
    """Raises `UserError` where all training rows have the same label.

    Args:
        sides: as in `refuse_what_cannot_train`, and so are the others.
        labels: likewise.
        names: likewise.
        data: likewise.
        task: likewise.
        tags: likewise.
    """
    rows = np.flatnonzero(sides == 0)
    if tags:
        tags.refuse_one_tag(rows)
    elif task != LANGUAGE:
        label_column.refuse_one_value(labels[rows], names, data)
