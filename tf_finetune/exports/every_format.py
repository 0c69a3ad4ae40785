"""Every format that a run can be exported in, each proved in a fresh process."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_finetune.errors import ExportError, UserError
from tf_finetune.exports import (
    graphs,
    hub_folder,
    hugging_face,
    language_model,
    picture_graphs,
    picture_model,
    saved_model,
    tag_model,
)
from tf_finetune.exports.folder import check_folder, mark, place_of, placing, size
from tf_finetune.exports.parity import (
    PARITY_TEXTS,
    TOLERANCE,
    Exported,
    Proof,
    expected_outputs,
    largest_difference,
    outputs_elsewhere,
    with_hard_texts,
)
from tf_finetune.model.image_task import ImageTask
from tf_finetune.model.language_task import LanguageTask
from tf_finetune.model.token_task import TokenTask
from tf_finetune.settings import ResultsConfig

_SAVED_MODEL = "saved_model"
_BYTES = 16_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    """How an export of a model of texts is written, and what runs it.

    Attributes:
        name: in a message.
        write: takes the model and an empty folder.
        run: the code that gives its outputs, see `parity`.
        timed: whether that code is what will serve.
        tolerance: of the comparison.
        expected: what that code must give, of the model and columns of texts.
    """

    name: str
    write: Callable[[Any, Path], None]
    run: str
    timed: bool = True
    tolerance: float = TOLERANCE
    expected: Callable[[Any, Sequence[Sequence[str]]], np.ndarray] = expected_outputs


# Beside the SavedModel, which takes strings and is written by `export`; those of models of
# pictures are in `picture_graphs`.
_FORMATS = {
    "litert": _Format(name="LiteRT file", write=graphs.write_litert, run=graphs.RUN_LITERT),
    "onnx": _Format(name="ONNX file", write=graphs.write_onnx, run=graphs.RUN_ONNX),
    "keras_hub": _Format(name="KerasHub folder", write=hub_folder.write, run=hub_folder.RUN),
    "hugging_face": _Format(
        name="Hugging Face folder",
        write=hugging_face.write,
        run=hugging_face.RUN,
        timed=False,
        tolerance=hugging_face.TOLERANCE,
        expected=hugging_face.expected,
    ),
}
# An extra of this package, and modules of it, by what the format's name begins with.
_EXTRAS = {"litert": ("ai_edge_litert",), "onnx": ("onnx", "tf2onnx", "onnxruntime")}


def wanted(results: ResultsConfig) -> tuple[str, ...]:
    """The formats that a run ends with."""
    return results.formats if results.export else ()


def check_exports(folder: str | os.PathLike, formats: Sequence[str]) -> None:
    """Refuses exports that could not be written, before there is a model.

    Raises:
        UserError: if a package is missing, or the folder holds what is not ours.
    """
    for name in formats:
        extra = name.partition("_")[0]
        missing = [m for m in _EXTRAS.get(extra, ()) if importlib.util.find_spec(m) is None]
        if missing:
            raise UserError(
                f'config.results.formats names "{name}", which needs {missing[0]}; run '
                f'`pip install "tf_finetune[{extra}]"`, or leave "{name}" out.'
            )
    check_folder(folder, formats)


def check_model(model: Any, formats: Sequence[str]) -> None:
    """Refuses formats that cannot hold this model, trained or not.

    Raises:
        UserError: saying why, and what would be possible.
    """
    allowed, what = [_SAVED_MODEL, *_FORMATS], "of texts"
    if isinstance(model, ImageTask):
        allowed, what = [_SAVED_MODEL, *picture_graphs.FORMS], "of pictures"
    elif isinstance(model, TokenTask):
        allowed, what = [_SAVED_MODEL], "that tags words"
    elif isinstance(model, LanguageTask):
        allowed, what = [_SAVED_MODEL, "keras_hub"], "that writes"
    for name in formats:
        if name not in allowed:
            raise UserError(
                f'config.results.formats names "{name}", which is for models of '
                f"{'texts' if name in _FORMATS else 'pictures'}; a model {what} is written as "
                f"{', '.join(allowed)}. Leave it out."
            )
    if "hugging_face" in formats:
        hugging_face.check(model)


def export_all(
    model: Any, folder: str | os.PathLike, examples: Any, formats: Sequence[str]
) -> dict[str, Exported]:
    """Writes each format to a folder of its own and proves it equal to the model.

    Args:
        model: that computes in float32.
        folder: usually `WORKDIR/export`.
        examples: one list of real texts, for pairs two; for a model that tags words lists of
            words; for one of pictures `picture_graphs.Examples`.
        formats: of `config.results.formats`.

    Returns:
        What was written, by format.

    Raises:
        UserError: if a folder is not ours, cannot be written, or the disk is full.
        ExportError: if a format cannot be written or its outputs differ; a former export
            of that format is left as it was.
    """
    return {
        name: _saved_model(model, folder, examples)
        if name == _SAVED_MODEL
        else _export(model, folder, examples, name)
        for name in formats
    }


def export_each(
    model: Any, folder: str | os.PathLike, examples: Any, formats: Sequence[str]
) -> tuple[dict[str, Exported], dict[str, str]]:
    """As `export_all`, but a format that cannot be written or proved stops no other.

    Returns:
        What was written, by format; and why the others were not.
    """
    exported, failed = dict[str, Exported](), dict[str, str]()
    for name in formats:
        try:
            exported |= export_all(model, folder, examples, (name,))
        except ExportError as error:
            failed[name] = str(error)
    return exported, failed


def _saved_model(model: Any, folder: str | os.PathLike, examples: Any) -> Exported:
    if isinstance(model, ImageTask):
        pixels = examples.pixels(examples.test[:PARITY_TEXTS])
        return picture_model.export_pictures(model, folder, pixels, examples)
    if isinstance(model, TokenTask):
        return tag_model.export_tags(model, folder, examples)
    if isinstance(model, LanguageTask):
        return language_model.export_responses(model, folder, examples[0])
    return saved_model.export(model, folder, examples)


def for_card(exported: Mapping[str, Exported], failed: Mapping[str, str]) -> dict[str, Any]:
    """What the card says: of the SavedModel as `export`, of all formats as `exports`.

    Where a format failed, `failed_exports` says by format why.
    """
    shown = {name: dataclasses.asdict(one) for name, one in exported.items()}
    facts = {"export": shown.get(_SAVED_MODEL), "exports": shown}
    return facts | ({"failed_exports": dict(failed)} if failed else {})


def _export(model: Any, folder: str | os.PathLike, examples: Any, name: str) -> Exported:
    made = picture_graphs.write_and_prove if isinstance(model, ImageTask) else _texts_proved
    if isinstance(model, LanguageTask):
        made = language_model.written_for_keras_hub
    with placing(folder, 4 * model.count_params() + _BYTES, name) as path:
        path.mkdir()
        proof = made(model, path, examples, name)
        mark(
            path,
            kind=model.kind,
            class_names=list(model.class_names),
            inputs=list(proof.inputs),
            max_difference=proof.difference,
            **proof.facts,
            **proof.beside,
        )
    place = place_of(folder, name)
    return Exported(
        path=place,
        bytes=size(place),
        texts=proof.compared,
        max_difference=proof.difference,
        milliseconds=proof.milliseconds,
        facts=proof.facts,
    )


def _texts_proved(model: Any, path: Path, columns: Sequence[Sequence[str]], name: str) -> Proof:
    form, columns = _FORMATS[name], with_hard_texts(columns)
    expected = form.expected(model, columns)
    form.write(model, path)
    found, milliseconds, facts = outputs_elsewhere(
        form.name, form.run, path, model, columns, timed=form.timed
    )
    return Proof(
        inputs=list(model.scorer.input),
        compared=len(columns[0]),
        difference=largest_difference(form.name, expected, found, columns, form.tolerance),
        milliseconds=milliseconds,
        facts=facts,
    )
