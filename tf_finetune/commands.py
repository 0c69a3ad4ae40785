"""What each mode of the command line does, once the command is known to be good."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tf_finetune import quiet
from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig
from tf_finetune.stopping import Stop
from tf_finetune.workdir import CARD, check_writable, prepare_workdir, read_card

# The flags that each mode takes besides --config and --workdir.
MODES: dict[str, tuple[str, ...]] = {
    "train": (),
    "plan": (),
    "find_rate": ("output",),
    "evaluate": ("input",),
    "export": ("output",),
    "predict": ("input", "output", "text"),
    "compare": (),
    "tune": (),
    "selftest": (),
}


@dataclasses.dataclass(slots=True, kw_only=True)
class Command:
    """A command line that has been read and checked.

    Attributes:
        mode: one of `MODES`.
        config: validated.
        workdir: the run folder; for `plan` and `find_rate` where temporary files go.
        input: the files to evaluate or predict; None if not given.
        output: where to write; None if not given.
        texts: the texts to predict, or the run folders to compare.
        line: what was typed, for the report.
        has_workdir: whether `workdir` was given.
    """

    mode: str
    config: FineTuneConfig
    workdir: Path
    input: str | None
    output: Path | None
    texts: list[str]
    line: str
    has_workdir: bool


def carry_out(command: Command, stop: Stop) -> bool:
    """Does what the command asks for, and prints the result.

    Args:
        command: what to do.
        stop: followed by a run; all else is broken off.

    Returns:
        Whether all is well, but for a selftest always True.
    """
    if command.mode == "train":
        _train(command, stop)
    elif command.mode == "tune":
        _tune(command, stop)
    elif command.mode == "selftest":
        from tf_finetune.proof.selftest import selftest

        return selftest(command.workdir if command.has_workdir else None)
    else:
        _DO[command.mode](command)
    return True


def _start_tensorflow() -> None:
    # Keras reads its backend once, when it is imported; ours is TensorFlow.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    quiet.import_tensorflow()


def _check_data(
    config: FineTuneConfig,
    path: str | None = None,
    *,
    labelled: bool = True,
    data: DataConfig | None = None,
) -> None:
    """Says at once what the first rows show; TensorFlow takes seconds to start."""
    from tf_finetune.data.sources import check

    if not (path or data):  # which are of a finished run
        _check_preset(config.model.preset)
    data = data or config.data
    if path or data.path:  # TensorFlow Datasets would start it
        check(data, path, labelled=labelled, task=config.model.task)


def _check_preset(preset: str) -> None:
    """The same of a file or folder that is to be loaded and is not there."""
    from tf_finetune.data.paths import expand

    if preset.endswith((".keras", ".pth")) or preset.startswith(("/", "./", "../", "~")):
        expand(preset, "config.model.preset")


def _train(command: Command, stop: Stop) -> None:
    if not prepare_workdir(command.workdir, command.config):
        _check_data(command.config)
    _start_tensorflow()
    from tf_finetune.train import fine_tune

    fine_tune(command.config, command.workdir, command=command.line, stop=stop)


def _tune(command: Command, stop: Stop) -> None:
    from tf_finetune.tuning.space import read_space

    read_space(command.config)
    _check_data(command.config)
    _start_tensorflow()
    from tf_finetune.tuning.study import tune

    tune(command.config, command.workdir, command=command.line, stop=stop)


def _plan(command: Command) -> None:
    _check_data(command.config)
    _start_tensorflow()
    from tf_finetune.plan import plan

    with _scratch_in(command):
        print(plan(command.config))


def _find_rate(command: Command) -> None:
    from tf_finetune.rates.curve import check_plot

    if command.output:
        check_plot(command.output, "--output")
    _check_data(command.config)
    _start_tensorflow()
    from tf_finetune.find_rate import find_rate

    with _scratch_in(command):
        curve = find_rate(command.config)
    print(curve.table())
    if command.output:
        curve.plot(command.output)
        print(f"plot: {command.output}")


@contextlib.contextmanager
def _scratch_in(command: Command) -> Iterator[None]:
    """Temporary files go to the folder that the command names, if it does."""
    if not command.has_workdir:
        yield
        return
    check_writable(command.workdir)
    before, scratch = tempfile.tempdir, command.workdir / "cache"  # which a run may find there
    scratch.mkdir(exist_ok=True)
    tempfile.tempdir = str(scratch)
    try:
        yield
    finally:
        tempfile.tempdir = before
        with contextlib.suppress(OSError):
            scratch.rmdir()


def _data_of_run(command: Command) -> DataConfig:
    """As `recognise.of_model`, by the run's card, before there is a model."""
    from tf_finetune.data.pictures.recognise import as_pictures

    data, file = command.config.data, command.workdir / CARD
    card = read_card(command.workdir) if file.exists() else {}
    return as_pictures(data) if "image_size" in card else data


def _evaluate(command: Command) -> None:
    if command.input:
        from tf_finetune.data.sources import unsplit

        _check_data(command.config, data=unsplit(_data_of_run(command), command.input))
    _start_tensorflow()
    from tf_finetune.rerun import evaluate_run

    print(evaluate_run(command.workdir, command.input, command.config.data))


def _export(command: Command) -> None:
    _start_tensorflow()
    from tf_finetune.reexport import export_run

    print(export_run(command.workdir, command.output, command.config.results.formats))


def _predict(command: Command) -> None:
    texts: Any = command.texts
    if command.config.data.text_pair:
        if len(texts) % 2:
            raise UserError("the run is on pairs of texts; give two texts for each prediction.")
        texts = list(zip(texts[::2], texts[1::2], strict=True))
    from tf_finetune.results.predict import (
        check_output,
        format_predictions,
        predict_file,
        predict_texts,
    )

    if command.input:
        check_output(command.output, command.config.model.task)
        _check_data(command.config, command.input, labelled=False, data=_data_of_run(command))
    _start_tensorflow()
    from tf_finetune.exports.load import load_model

    model = load_model(command.workdir)
    if command.input is None:
        print(format_predictions(predict_texts(model, texts)))
        return
    done = predict_file(model, command.input, command.output, command.config)
    if done.left_out:
        print(f"{done.left_out:,} pictures cannot be read: no prediction", file=sys.stderr)
    if done.output:
        damaged = f", {done.undecodable:,} from damaged text" if done.undecodable else ""
        print(f"{done.rows:,} predictions written to {done.output}{damaged}")
        if done.unseen:
            print(f"{done.unseen:,} words are tagged O unseen: their texts are too long")


def _compare(command: Command) -> None:
    from tf_finetune.results.compare import compare

    print(compare([Path(folder) for folder in command.texts]))


_DO: dict[str, Callable[[Command], None]] = {
    "plan": _plan,
    "find_rate": _find_rate,
    "evaluate": _evaluate,
    "export": _export,
    "predict": _predict,
    "compare": _compare,
}
