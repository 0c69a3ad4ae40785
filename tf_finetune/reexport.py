"""Exports of a finished run, written later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tf_finetune.data.rows_file import taken
from tf_finetune.data.text import texts_of
from tf_finetune.errors import ExportError
from tf_finetune.exports import every_format
from tf_finetune.exports.load import load_model
from tf_finetune.exports.parity import PARITY_TEXTS, Exported
from tf_finetune.exports.picture_graphs import Examples
from tf_finetune.finished import rows_of_run
from tf_finetune.fit import precision
from tf_finetune.report import export_section
from tf_finetune.results import tested
from tf_finetune.results.proofs import picture_examples
from tf_finetune.workdir import CARD, check_finished, read_card, read_config, write_atomically


def export_run(
    workdir: Path, output: Path | None = None, formats: Sequence[str] | None = None
) -> str:
    """Writes exports of a finished run.

    Args:
        workdir: the run folder.
        output: where to; None means the run's own `export` folder.
        formats: as `config.results.formats`; None means the run's own.

    Returns:
        A line for people on each format.

    Raises:
        UserError: if the run is not finished, cannot be written in that format, or the
            folder is not ours.
        ExportError: if a format cannot be written or proved; the others are.
    """
    check_finished(Path(workdir))
    config = read_config(workdir)
    folder, formats = output or Path(workdir) / "export", formats or config.results.formats
    every_format.check_exports(folder, formats)
    model = load_model(workdir)
    every_format.check_model(model, formats)
    texts = model.column != "image"
    examples: Any
    if model.column == "words":
        rows = _test_rows(Path(workdir))
        examples = rows["words"].to_pylist() if rows else []
    elif texts:
        rows = _test_rows(Path(workdir))
        empty: list[list[str]] = [[] for _ in range(2 if config.data.text_pair else 1)]
        examples = texts_of(rows, np.arange(len(rows))) if rows else empty
    else:
        examples = _pictures(Path(workdir), model)
    exported, failed = dict[str, Exported](), dict[str, str]()
    try:
        with precision.whole_float32():
            for name in formats:
                made, not_made = every_format.export_each(model, folder, examples, (name,))
                exported, failed = exported | made, failed | not_made
    finally:  # what stands there is new, whatever the next format came to
        if output is None and (exported or failed):
            _note(Path(workdir), exported, failed)
    word = "text" if texts else "picture"
    lines = [
        f"exported to {info.path} ({info.bytes / 1e6:.1f} MB); {export_section.proved(info, word)}"
        + (f", {info.milliseconds:.1f} ms a {word}" if info.milliseconds else "")
        for info in exported.values()
    ]
    if failed:
        raise ExportError("\n".join([*lines, *failed.values()]))
    return "\n".join(lines)


def _note(workdir: Path, exported: Mapping[str, Any], failed: Mapping[str, str]) -> None:
    """Writes into the run's card what stands in its export folder now."""
    card = read_card(workdir)
    had, lacked = card.get("exports") or {}, card.pop("failed_exports", {})
    new = every_format.for_card(exported, failed)
    card["exports"] = had | new["exports"]
    card["export"] = new["export"] or card.get("export")
    still = {name: why for name, why in lacked.items() if name not in exported}
    if still := still | dict(failed):
        card["failed_exports"] = still
    write_atomically(workdir / CARD, json.dumps(card, indent=2, default=str) + "\n")


def _pictures(workdir: Path, model: Any) -> Examples:
    """The run's pictures; none where its data, or what it gave for them, are gone."""
    kept, none = rows_of_run(workdir), np.arange(0)
    if kept is None or not (workdir / tested.FILE).exists():
        splits, outputs = {"train": none, "test": none}, np.empty((0, len(model.class_names)))
        paths = pa.chunked_array([], pa.string())
        return picture_examples(
            model.kind, lambda _: model.pixels_of([]), paths, splits, none, outputs
        )
    (table, splits), judged = kept, tested.read(workdir)
    paths = table["image"]
    return picture_examples(
        model.kind,
        lambda rows: model.pixels_of(paths.take(pa.array(rows)).to_pylist()),
        paths,
        splits,
        judged.labels,
        judged.outputs,
    )


def _test_rows(workdir: Path) -> pa.Table | None:
    """Some of the run's texts to test on; None if the run's data are gone."""
    kept = rows_of_run(workdir)
    return kept and taken(kept[0], kept[1]["test"][:PARITY_TEXTS])
