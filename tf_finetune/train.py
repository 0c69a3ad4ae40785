"""The whole story of a run, from raw data to a served model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tf_finetune import quiet
from tf_finetune import workdir as folder
from tf_finetune.assemble import Setup, set_up
from tf_finetune.checkpoints.lock import locked
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.pipeline import told
from tf_finetune.errors import ExportError
from tf_finetune.exports import every_format
from tf_finetune.finished import FitResult, check_same_data, load_result, versions
from tf_finetune.fit import precision
from tf_finetune.fit.checkpoints import bytes_of
from tf_finetune.fit.interpolation import interpolates
from tf_finetune.fit.keeping import remove_kept
from tf_finetune.fit.memory import forget_peak, peak_bytes
from tf_finetune.fit.replicas import replicated
from tf_finetune.fit.strategy import is_chief, told_by_chief
from tf_finetune.interpolated import interpolate_run, untuned_scores
from tf_finetune.kept import frozen_part, kept_in
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import count_parameters, lora_layers, set_trainable
from tf_finetune.model.lora import merge_lora, save_adapter
from tf_finetune.one_phase import run_aside, run_phase
from tf_finetune.recipe import written_recipe
from tf_finetune.report import markdown, model_card, page
from tf_finetune.report.page_pictures import page_pictures
from tf_finetune.results.closer_look import look_closer
from tf_finetune.results.judgement import judge
from tf_finetune.results.previous import previous_outputs
from tf_finetune.results.proofs import examples_of
from tf_finetune.resume import Ongoing, begun, digest
from tf_finetune.stopping import Stop
from tf_finetune.taking_part import Part, taking_part
from tf_finetune.whole import written_whole

_FLOAT = 4


def fine_tune(
    config: FineTuneConfig,
    workdir: str | os.PathLike[str],
    data: Any = None,
    *,
    command: str = "",
    stop: Stop | None = None,
    say: Callable[[str], None] = print,
) -> FitResult:
    """Fine-tunes, evaluates, saves and exports a model.

    A run that was stopped, however, goes on when it is called again, and ends as if it
    had not been.

    Args:
        config: the run's settings.
        workdir: the run folder. A finished run of the same configuration is loaded
            and nothing is done. No two runs may use it at a time.
        data: instead of `config.data.path`: a pandas DataFrame, a dict of columns, a
            pair (texts, labels), a `tf.data.Dataset`, or a dict of those by split.
        command: how the run was started, for the report.
        stop: may ask the run to stop, by `ask` from a signal handler, or by `asked` from another
            thread.
        say: where lines for people go.

    Returns:
        The result; its model computes in float32.

    Raises:
        UserError: for a mistake in the configuration or the data, before training.
        Stopped: where `stop` was asked; the same call goes on.
        ExportError: at the end of a finished run, where an export does not give what the model
            gives; the others stand.
    """
    config.validate()
    with taking_part(config, Path(workdir), stop or Stop(), say) as part:
        finished = told_by_chief(folder.prepare_workdir(part.folder, config))
        # Each phase has graphs of its own, of which TensorFlow would warn.
        with (
            contextlib.nullcontext() if finished else locked(part.folder),
            quiet.without_retracing(),
        ):
            # It may have been finished while the lock was another's.
            if not finished:
                finished = told_by_chief(folder.prepare_workdir(part.folder, config))
            if not finished:
                with told():
                    return _fine_tuned(config, part, data, command)
        part.scope.close()
        if data is not None:
            check_same_data(part.shared, config, data)
        part.say(f"{part.shared} holds this run, finished; nothing to do.")
        return load_result(part.shared)


def _fine_tuned(config: FineTuneConfig, part: Part, data: Any, command: str) -> FitResult:
    """`fine_tune`, in a folder that is this run's alone."""
    began = time.perf_counter()
    forget_peak()
    run, say = part.folder, part.say
    formats = every_format.wanted(config.results)
    every_format.check_exports(run / "export", formats)

    # 1. Data and 2. model: everything that can be wrong is found here.
    setup = set_up(config, run / "cache", data, say=say)
    # What is loaded is not handed out by the strategy, as first values are.
    part.agree(lambda: {"data": setup.prepared.digest, "weights": digest(setup.task.network)})
    previous = previous_outputs(config, setup)
    prepared, task, phases = setup.prepared, setup.task, setup.phases
    every_format.check_model(task, formats)
    copies = 1 + len(formats) + any(phase.train != "head" for phase in phases)
    room = copies * bytes_of(task)
    fitted, ongoing = begun(part, config, setup, room=room)
    if part.chief:
        setup.inputs.looks(prepared, run / folder.LOOKS)

    # 3. Freeze and 4. fit, phase by phase.
    ready, earlier = time.perf_counter(), ongoing.state.seconds
    with (
        contextlib.closing(ongoing),
        precision.computing_in(setup.precision, task.backbone),
        kept_in(fitted, run / "cache", say) as kept,
    ):
        _train(setup, fitted, run, kept, room, ongoing, say)
        remove_kept(run / "cache")
        state, line = ongoing.state, None
        if state.before is not None:
            line = interpolate_run(setup, config, ongoing.before(), say)
    if lora_layers(task.network):
        save_adapter(task.network, run / folder.ADAPTER, backbone=task.backbone)
        merge_lora(task.network)
    trained = time.perf_counter()

    # 5. Evaluate what will be shipped, in float32; the test split once.
    readings = folder.note_reading(run) if part.chief else 1
    beside = state.probe if any(phase.train != "head" for phase in phases) else {}
    with precision.whole_float32():
        judgement = judge(setup, config, beside, state.untuned, previous)

    # 6. Save: the Keras model to go on with, and what serves it.
    bound = replicated()
    part.scope.close()
    task = task.copied() if bound else task
    if not part.chief:
        history = folder.read_history(run)
        return FitResult(metrics=judgement.card, history=history, model=task, workdir=part.shared)
    with written_whole(run / folder.MODEL, needed=bytes_of(task)) as temporary:
        task.save(temporary)
    examples = examples_of(setup, judgement)
    with precision.whole_float32():
        exported, failed = every_format.export_each(task, run / "export", examples, formats)
    card = judgement.card | look_closer(setup, task, config, judgement, run)
    ended = time.perf_counter()
    card |= {
        "phases": [dataclasses.asdict(result) for result in state.results],
        "seconds": {
            "total": round(earlier + ended - began, 2),
            "set_up": round(ready - began, 2),
            "train": round(earlier + trained - ready, 2),
            "evaluate_and_save": round(ended - trained, 2),
        },
        "train_seconds": round(earlier + trained - ready, 2),
        "resumed": ongoing.resumed,
        "test_readings": readings,
        "interpolation": dataclasses.asdict(line) if line else None,
        "peak_memory_bytes": peak_bytes(),
        "grouped": bool(config.data.group),
        "precision": setup.precision,
        "micro_batch": fitted.fit.micro_batch,
        **setup.inputs.size,
        **every_format.for_card(exported, failed),
        "versions": versions(),
        "command": command,
        "workdir": str(run),
        "data_digest": prepared.digest,
    }
    card = json.loads(json.dumps(card, default=str))
    again = "The settings of this run; a run with them in another folder is the same one."
    folder.write_atomically(run / folder.RECIPE, written_recipe(config, again))
    folder.write_atomically(run / "report.md", markdown.render(card, config, prepared))
    pictures = page_pictures(setup, task, card, run / folder.LOOKS)
    folder.write_atomically(run / "report.html", page.render(card, config, prepared, pictures))
    folder.write_atomically(run / "README.md", model_card.render(card, config, prepared))
    # Last of all: a folder with a card is a finished run.
    folder.write_atomically(run / folder.CARD, json.dumps(card, indent=2) + "\n")
    ongoing.files.prune(1)
    say(markdown.summary(card, run))
    if failed:
        raise ExportError(
            f"The run is finished, and {run / 'report.md'} and {run / folder.MODEL} are written, "
            f"but not its export as {' and '.join(failed)}. To try that again: --mode=export.\n"
            + "\n".join(failed.values())
        )
    return FitResult(metrics=card, history=folder.read_history(run), model=task, workdir=run)


def _room(setup: Setup, run: Path, kept: Path, room: int) -> int:
    """Bytes that the run still writes to the disk on which activations are kept."""
    if not is_chief() or run.stat().st_dev != kept.stat().st_dev:
        return 0
    groups, moving = layer_groups(setup.task.network, setup.task.backbone), 0
    for phase in setup.phases:
        set_trainable(groups, phase.train, phase.batch_norm)
        moving = max(moving, count_parameters(setup.task.network)[0])
    there = sum(file.stat().st_size for file in (run / folder.CHECKPOINTS).rglob("*"))
    # Checkpoints hold what moves and two moments of it; three may stand there at a time.
    return max(0, room + 9 * _FLOAT * moving - there)


def _train(
    setup: Setup,
    config: FineTuneConfig,
    run: Path,
    kept: Path,
    room: int,
    ongoing: Ongoing,
    say: Callable[[str], None],
) -> None:
    """Runs the phases that have not ended yet."""
    state, saving = ongoing.state, ongoing.saving
    frozen = frozen_part(setup, config, kept, say, state.made, _room(setup, run, kept, room))
    if setup.baseline and not state.probe:
        state.probe = run_aside(setup, config, setup.baseline, run, say, saving, frozen)
        ongoing.save()
    for number, phase in enumerate(setup.phases, 1):
        if number <= len(state.results):
            continue
        tunes = phase.train != "head"
        if tunes and state.before is None and interpolates(config.fit, setup.phases):
            ongoing.mark_before()
        if tunes and not state.untuned:
            state.untuned = state.probe or untuned_scores(setup, config)
        came = run_phase(setup, config, phase, number, run, state.optimizer, say, saving, frozen)
        state.results.append(came[0])
        # Of a head on a tuned backbone the figures are no baseline.
        if all(result.train == "head" for result in state.results):
            state.probe = state.probe or came[1]
        ongoing.save()
