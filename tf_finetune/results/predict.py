"""Predictions for a few texts or pictures, or for a file of any size."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tf_finetune.config import FineTuneConfig
from tf_finetune.data import content, sources
from tf_finetune.data.pictures.recognise import of_model
from tf_finetune.data.spans import Tagged
from tf_finetune.data_checks import TOKENS
from tf_finetune.errors import UserError

# Rows in memory at once. `predict` makes batches of similar length within them.
_WINDOW = 4096
_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What `predict_file` did.

    Attributes:
        rows: how many predictions were written; every row of the input has one, but for
            pictures that cannot be read.
        undecodable: rows with bytes that are no text in `config.data.encoding`,
            predicted from the rest unless `config.data.bad_rows` is `error`.
        output: the file; None for stdout.
        unseen: words that the model does not see, in token classification, because texts are
            too long.
        left_out: pictures that cannot be read.
    """

    rows: int
    undecodable: int
    output: Path | None
    unseen: int = 0
    left_out: int = 0


def predict_texts(model: Any, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[dict]:
    """Predicts a few texts.

    Args:
        model: what `load_model` gives.
        texts: strings, or (text, second text) for a model of pairs; for a model of pictures
            the paths of files; for one that tags words also lists of words.

    Returns:
        A dict for each text: `text` (and `text_pair`) or `image`, and by task `label` and
        `probabilities` by class name, `labels` and `probabilities`, or `value`; of a language
        model `response`; of tagged words `words`, `tags` and `spans`, each with `type`, `text`,
        `start`, `end` and `probability`.
    """
    if not texts:
        return []
    first = getattr(model, "column", "text")
    if first == "words":
        return [{"text": one.text} | _described(model, one) for one in _tagged(model, texts)]
    named = [
        {first: text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        for text in texts
    ]
    outputs = _outputs(model, [[row[name] for row in named] for name in named[0]])
    return [start | _described(model, row) for start, row in zip(named, outputs, strict=True)]


def format_predictions(rows: Sequence[dict]) -> str:
    """The rows of `predict_texts` for people: `good  98.2%  a lovely film`."""
    heads = [_head(row) for row in rows]
    wide = max(map(len, heads), default=0)
    return "\n".join(
        f"{head:<{wide}}  {_one_line(row)}" for head, row in zip(heads, rows, strict=True)
    )


def predict_file(
    model: Any,
    input_path: str | os.PathLike,
    output_path: str | os.PathLike | None,
    config: FineTuneConfig,
) -> Predicted:
    """Predicts every row of a file, in order, with a bounded part of it in memory.

    Pictures that cannot be read are found before, and left out where `config.data.bad_rows`
    is not `error`.

    Each row of the output says `row` (the input's line, as an editor counts), `file`
    if there are several, and the prediction: in JSONL as `predict_texts` has it, in
    CSV with a column `probability_NAME` for each class. Of tagged words there is `.conll` in
    place of CSV: a word and its tag a line, with a tab between.

    Args:
        model: what `load_model` gives.
        input_path: as in `config.data.path`.
        output_path: a `.jsonl`, `.csv` or `.conll` file that does not exist yet; None for JSONL
            on stdout.
        config: the run's; its `data` names the text columns, encoding and delimiter.

    Returns:
        How many rows were written, and where.

    Raises:
        UserError: if the input cannot be read, lacks the column or holds bad rows
            while `config.data.bad_rows` is `error`; if the output exists, has another
            ending or cannot be written. No output is left behind then.
    """
    output = None if output_path is None else Path(output_path)
    with _scratch(output, model.kind) as folder:
        data = of_model(config.data, model)
        source = os.fspath(input_path)
        table, findings = sources.read(data, model.kind, folder, source, labelled=False)
        given = len(table)
        table = content.without_unusable(table, findings)
        findings.enforce(findings.kinds(), config.data.bad_rows, "bad_rows")
        if output is None:
            unseen = _write(model, table, sys.stdout, _JsonLines)
        else:
            unfinished = folder / "predictions"
            with unfinished.open("w", encoding="utf-8", newline="") as file:
                unseen = _write(model, table, file, _writers(model.kind)[output.suffix])
                file.flush()
                os.fsync(file.fileno())
            check_output(output, model.kind)  # it may have come meanwhile
            # The rows are memory-mapped from the folder that goes away.
            os.rename(unfinished, output)
        undecodable = findings.count("undecodable bytes")
        return Predicted(
            rows=len(table),
            undecodable=undecodable,
            output=output,
            unseen=unseen,
            left_out=given - len(table),
        )


def check_output(output: Path | None, task: str) -> None:
    """Raises `UserError` unless predictions of a task can go to a new file of that name."""
    if output and output.suffix not in _writers(task):
        raise UserError(f'--output "{output}" must end in {" or ".join(_writers(task))}.')
    if output and output.exists():
        raise UserError(f'--output "{output}" exists; delete it or choose another name.')


class _JsonLines:
    def __init__(self, model: Any, file: TextIO) -> None:
        self._file = file

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")


class _Csv:
    def __init__(self, model: Any, file: TextIO) -> None:
        self._writer, self._started = csv.writer(file, lineterminator="\n"), False

    def write(self, row: dict[str, Any]) -> None:
        row = dict(row)
        shares = row.pop("probabilities", {})
        if "labels" in row:
            row["labels"] = "|".join(row["labels"])
        row |= {f"probability_{name}": share for name, share in shares.items()}
        if not self._started:
            self._writer.writerow(row)
            self._started = True
        self._writer.writerow(row.values())


class _Conll:
    def __init__(self, model: Any, file: TextIO) -> None:
        self._file = file

    def write(self, row: dict[str, Any]) -> None:
        pairs = zip(row["words"], row["tags"], strict=True)
        self._file.writelines(f"{' '.join(word.split()) or '_'}\t{tag}\n" for word, tag in pairs)
        self._file.write("\n")


def _writers(task: str) -> dict[str, type]:
    return {".jsonl": _JsonLines} | ({".conll": _Conll} if task == TOKENS else {".csv": _Csv})


def _write(model: Any, table: pa.Table, file: TextIO, kind: type) -> int:
    """Writes the predictions of a table; how many words were not seen."""
    writer, unseen = kind(model, file), 0
    names = [name for name in ("text", "text_pair", "image") if name in table.column_names]
    several = len(pc.unique(table["file"])) > 1
    for start in range(0, len(table), _WINDOW):
        window = table.slice(start, _WINDOW)
        if "words" in table.column_names:
            pairs = zip(window["words"].to_pylist(), window["text"].to_pylist(), strict=True)
            outputs = _tagged(model, [text if row is None else row for row, text in pairs])
            unseen += sum(one.unseen for one in outputs)
        else:
            outputs = _outputs(model, [window[name].to_pylist() for name in names])
        files, numbers = window["file"].to_pylist(), window["row"].to_pylist()
        for name, number, row in zip(files, numbers, outputs, strict=True):
            place = {"file": name, "row": number} if several else {"row": number}
            writer.write(place | _described(model, row))
    return unseen


def _outputs(model: Any, columns: list[list[str]]) -> Any:
    return model.predict(columns[0] if len(columns) == 1 else tuple(columns))


def _tagged(model: Any, rows: Sequence[Any]) -> Any:
    """Of texts and lists of words, in any order."""
    runs = itertools.groupby(rows, key=lambda row: isinstance(row, str))
    return [one for _, run in runs for one in model.predict(list(run))]


def _described(model: Any, row: Any) -> dict[str, Any]:
    if isinstance(row, Tagged):
        names = ("type", "text", "start", "end", "probability")
        spans = [{name: getattr(span, name) for name in names} for span in row.spans]
        return {"words": row.words, "tags": row.tags, "spans": spans}
    if isinstance(row, str):
        return {"response": row}
    if model.kind == "regression":
        return {"value": _short(row[0])}
    shares = {name: _short(value) for name, value in zip(model.class_names, row, strict=True)}
    if model.kind == "multi_label":
        chosen = [name for name, value in shares.items() if value >= _THRESHOLD]
        return {"labels": chosen, "probabilities": shares}
    return {"label": model.class_names[int(np.argmax(row))], "probabilities": shares}


def _short(value: np.floating) -> float:
    """The shortest decimal number that is this float32."""
    return float(str(np.float32(value)))


def _head(row: dict) -> str:
    if "spans" in row:
        named = (
            f"{s['text']} ({s['type']} {s['probability']:.1%}, {s['start']}-{s['end']})"
            for s in row["spans"]
        )
        return ", ".join(named) or "(none)"
    if "response" in row:
        return " ".join(row["response"].split()) or "(nothing)"
    if "value" in row:
        return f"{row['value']:.4g}"
    if "labels" in row:
        return ", ".join(row["labels"]) or "(none)"
    return f"{row['label']}  {row['probabilities'][row['label']]:.1%}"


def _one_line(row: dict) -> str:
    texts = (row[name] for name in ("text", "text_pair", "image") if name in row)
    return " | ".join(" ".join(text.split()) for text in texts)


@contextlib.contextmanager
def _scratch(output: Path | None, task: str) -> Iterator[Path]:
    """A folder for unfinished things, on the disk that the output will be on."""
    check_output(output, task)
    if output is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    except OSError as error:
        raise UserError(f'--output "{output}" cannot be written: {error.strerror}.') from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
