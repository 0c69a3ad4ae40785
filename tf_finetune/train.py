"""The whole story of a run, from raw data to a served model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np

from tf_finetune import workdir as folder
from tf_finetune.assemble import Setup, set_up
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.data.augment import token_noise
from tf_finetune.data.pipeline import Store
from tf_finetune.data.prepare import prepare
from tf_finetune.errors import UserError
from tf_finetune.fit import precision
from tf_finetune.fit.checkpoints import bytes_of
from tf_finetune.fit.distribution import refuse_unsound
from tf_finetune.fit.examples import examples_of_rows
from tf_finetune.fit.feature_cache import cache_features
from tf_finetune.fit.held_out import Scores, activated, held_out
from tf_finetune.fit.interpolation import Interpolation
from tf_finetune.fit.loop import PhaseResult, fit_phase, run_adamw
from tf_finetune.fit.objective import objective_of
from tf_finetune.fit.recompute import recomputed_blocks
from tf_finetune.fit.replicas import replicated
from tf_finetune.fit.seeds import best_of_seeds, seeds_of
from tf_finetune.fit.steps import step_of
from tf_finetune.fit.strategy import is_chief, own_folder, strategy_of, told_by_chief
from tf_finetune.interpolated import interpolate_run, retained_scores
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import frozen_dropout_off, lora_layers, set_trainable
from tf_finetune.model.lora import merge_lora, save_adapter
from tf_finetune.optim.carry import State
from tf_finetune.preflight import fitting_replicas, share_gpu
from tf_finetune.results import evaluate, export, report, retention
from tf_finetune.results.export_folder import check_folder
from tf_finetune.results.load import load_model
from tf_finetune.whole import written_whole


@dataclasses.dataclass(slots=True, kw_only=True)
class FitResult:
    """What a run gives back.

    Attributes:
        metrics: the card, as in `metrics.json`: `metrics["test"]["accuracy"]`.
        history: one dict an epoch over all phases, as in `metrics.jsonl`; a head
            that was trained only to compare with is the phase `probe-baseline`.
        model: the fine-tuned `TextTask`; `model.predict(["a text"])`.
        workdir: the run folder.
    """

    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    model: Any
    workdir: Path


def fine_tune(
    config: FineTuneConfig,
    workdir: str | os.PathLike[str],
    data: Any = None,
    *,
    command: str = "",
    say: Callable[[str], None] = print,
) -> FitResult:
    """Fine-tunes, evaluates, saves and exports a model.

    Args:
        config: the run's settings.
        workdir: the run folder. A finished run of the same configuration is loaded
            and nothing is done.
        data: instead of `config.data.path`: a pandas DataFrame, a dict of columns, a
            pair (texts, labels), a `tf.data.Dataset`, or a dict of those by split.
        command: how the run was started, for the report.
        say: where lines for people go.

    Returns:
        The result; its model computes in float32.

    Raises:
        UserError: for a mistake in the configuration or the data, before training.
    """
    config.validate()
    share_gpu(config)
    refuse_unsound()
    # Several hosts must have found each other before anything is computed.
    strategy = strategy_of(config.fit.strategy)
    with own_folder(Path(workdir), strategy) as run, contextlib.ExitStack() as scope:
        scope.enter_context(strategy.scope())
        if told_by_chief(folder.prepare_workdir(run, config)):
            scope.close()
            return _finished(config, Path(workdir), data, say)
        said = say if is_chief() else lambda line: None
        result = _fine_tune(config, run, data, command, said, scope)
        with strategy.scope():
            told_by_chief(0)  # who ends first would take the others with it
        return dataclasses.replace(result, workdir=Path(workdir))


def _finished(
    config: FineTuneConfig, run: Path, data: Any, say: Callable[[str], None]
) -> FitResult:
    if data is not None:
        _check_same_data(run, config, data)
    say(f"{run} holds this run, finished; nothing to do.")
    return load_result(run)


def _fine_tune(
    config: FineTuneConfig,
    run: Path,
    data: Any,
    command: str,
    say: Callable[[str], None],
    scope: contextlib.ExitStack,
) -> FitResult:
    """The story itself; `scope` is that of the strategy, and is left when all is trained."""
    began = time.perf_counter()
    check_folder(run / "export")

    # 1. Data and 2. model: everything that can be wrong is found here.
    setup = set_up(config, run / "cache", data, say=say)
    fitted = fitting_replicas(config, setup, say=say)
    prepared, task, phases = setup.prepared, setup.task, setup.phases
    copies = 1 + config.results.export + any(phase.train != "head" for phase in phases)
    folder.check_room(run, copies * bytes_of(task))
    folder.begin(run, config, prepared.report)

    # 3. Freeze and 4. fit, phase by phase.
    ready = time.perf_counter()
    probe: Scores = {}
    untuned: Scores = {}
    results: list[PhaseResult] = []
    state: State = {}
    before: list[np.ndarray] = []
    line: Interpolation | None = None
    with precision.computing_in(setup.precision, task.backbone):
        if setup.baseline:
            probe = _run_aside(setup, fitted, setup.baseline, run, say)
        for number, phase in enumerate(phases, 1):
            if phase.train != "head" and config.fit.interpolate and not before:
                before = task.network.get_weights()
            if phase.train != "head" and config.data.retained and not untuned:
                untuned = probe or retained_scores(setup, config)
            result, scores = run_phase(setup, fitted, phase, number, run, state, say)
            results.append(result)
            probe = probe or scores
        if before:
            line = interpolate_run(setup, config, before, say)
    if lora_layers(task.network):
        save_adapter(task.network, run / folder.ADAPTER, backbone=task.backbone)
        merge_lora(task.network)
    trained = time.perf_counter()

    # 5. Evaluate what will be shipped, in float32; the test split once.
    beside = probe if any(phase.train != "head" for phase in phases) else {}
    card = _evaluate(setup, config, beside, untuned)

    # 6. Save: the Keras model to go on with, and the SavedModel to serve.
    chief, bound = is_chief(), replicated()
    scope.close()
    task = task.copied() if bound else task
    if not chief:
        return FitResult(metrics=card, history=_history(run), model=task, workdir=run)
    with written_whole(run / folder.MODEL, needed=bytes_of(task)) as temporary:
        task.save(temporary)
    parity = setup.texts(prepared.splits["test"][:64])
    exported = export.export(task, run / "export", parity) if config.results.export else None
    ended = time.perf_counter()
    card |= {
        "phases": [dataclasses.asdict(result) for result in results],
        "seconds": {
            "total": round(ended - began, 2),
            "set_up": round(ready - began, 2),
            "train": round(trained - ready, 2),
            "evaluate_and_save": round(ended - trained, 2),
        },
        "train_seconds": round(trained - ready, 2),
        "interpolation": dataclasses.asdict(line) if line else None,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "precision": setup.precision,
        "micro_batch": fitted.fit.micro_batch,
        "sequence_length": setup.sequence_length,
        "export": dataclasses.asdict(exported) if exported else None,
        "versions": versions(),
        "command": command,
        "data_digest": prepared.digest,
    }
    card = json.loads(json.dumps(card, default=str))
    folder.write_atomically(run / "report.md", report.render(card, config, prepared))
    # Last of all: a folder with a card is a finished run.
    folder.write_atomically(run / folder.CARD, json.dumps(card, indent=2) + "\n")
    say(report.summary(card, run))
    return FitResult(metrics=card, history=_history(run), model=task, workdir=run)


def _evaluate(
    setup: Setup, config: FineTuneConfig, probe: Scores, untuned: Scores
) -> dict[str, Any]:
    """The card: the model, the probe alone and the majority on the same test rows."""
    task, prepared = setup.task, setup.prepared
    labels = {name: prepared.labels[rows] for name, rows in prepared.splits.items()}
    outputs = held_out(task.scorer, setup.tokens, prepared.splits, config.fit.eval_batch)
    how: Any = {"bootstrap": config.results.bootstrap, "seed": config.data.seed}
    kind, names = task.kind, task.class_names
    baselines = {
        "majority": evaluate.majority_baseline(kind, labels["train"], labels["test"], names, **how)
    }
    facts: dict[str, Any] = {
        "validation": evaluate.score(
            kind, outputs["validation"], labels["validation"], names, **how
        )
    }
    if probe:
        baselines["probe"] = evaluate.score(kind, probe["test"], labels["test"], names, **how)
        facts["gain_over_probe"] = evaluate.gain(
            kind, outputs["test"], probe["test"], labels["test"], **how
        )
    if "retained" in outputs:
        pair = untuned.get("retained"), outputs["retained"]
        facts["retained"] = retention.account(kind, *pair, labels["retained"], names, **how)
    test = evaluate.score(kind, outputs["test"], labels["test"], names, **how)
    return evaluate.card(kind, names, test, baselines, **facts)


def load_result(workdir: Path) -> FitResult:
    """The result of a finished run, from its folder."""
    return FitResult(
        metrics=json.loads((workdir / folder.CARD).read_text()),
        history=_history(workdir),
        model=load_model(workdir),
        workdir=workdir,
    )


def _history(workdir: Path) -> list[dict[str, Any]]:
    lines = (workdir / folder.HISTORY).read_text().splitlines()
    return [json.loads(line) for line in lines]


def _check_same_data(workdir: Path, config: FineTuneConfig, data: Any) -> None:
    """Data handed over in Python are not named in the configuration."""
    with tempfile.TemporaryDirectory(prefix="tf_finetune-compare-") as scratch:
        digest = prepare(config, Path(scratch), data).digest
    if digest != json.loads((workdir / folder.CARD).read_text())["data_digest"]:
        raise UserError(
            f'"{workdir}" holds a run on other data, with the same configuration; choose another '
            "workdir."
        )


def run_phase(
    setup: Setup,
    config: FineTuneConfig,
    phase: Phase,
    number: int,
    run: Path,
    state: State,
    say: Callable[[str], None],
) -> tuple[PhaseResult, Scores]:
    """Runs a phase; where it trains the head alone, also says how good that is."""
    task, splits, fit = setup.task, setup.prepared.splits, config.fit
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, phase.train, phase.batch_norm)
    network, store = task.network, cast(Store, setup.tokens)
    noise = token_noise(task.preprocessor, config.data)
    if phase.train == "head" and fit.cache:
        say(f"phase {phase.name}: running the frozen backbone once over all rows")
        rows = np.concatenate(list(splits.values()))
        store = cache_features(task.encoder, store, rows, batch_size=fit.eval_batch)
        network = task.head
    objective = objective_of(task, fit.label_smoothing)

    def trained(seed: int, run: Path, state: State, say: Callable[[str], None]) -> PhaseResult:
        examples = examples_of_rows(
            store,
            setup.prepared.labels,
            splits["train"],
            splits["validation"],
            dataclasses.replace(fit, seed=seed),
            # Features of the frozen backbone are those of the texts as they are.
            None if network is task.head else noise,
        )
        with frozen_dropout_off(groups), recomputed_blocks(groups, fit.gradient_checkpointing):
            return fit_phase(
                network,
                examples,
                phase,
                objective=objective,
                optimizer=run_adamw(phase, examples.steps, groups, fit, setup.anchors),
                state=state,
                number=number,
                workdir=run,
                full=task.network,
                step=step_of(task, network, fit),
                spike_guard=fit.spike_guard,
                ema=fit.ema,
                say=say,
            )

    # A head that an earlier phase has trained goes on from there.
    seeds = seeds_of(fit.seed, fit.probe_seeds if network is task.head and not state else 1)
    result = best_of_seeds(
        trained, network, seeds, objective=objective, state=state, workdir=run, say=say
    )
    logits = held_out(network, store, splits, fit.eval_batch) if phase.train == "head" else {}
    return result, activated(task.kind, logits)


def _run_aside(
    setup: Setup, config: FineTuneConfig, phase: Phase, run: Path, say: Callable[[str], None]
) -> Scores:
    """Scores of the head after a phase on it alone; the task is left as it was."""
    network = setup.task.network
    frozen = {variable.path for variable in setup.task.backbone.weights}
    # The head, and the state of every dropout's random numbers.
    before = [(v, v.numpy()) for v in network.variables if v.path not in frozen]
    _, scores = run_phase(setup, config, phase, 0, run, {}, say)
    for variable, value in before:
        variable.assign(value)
    return scores


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide the numbers."""
    names = ("tf_finetune", "tensorflow", "keras", "keras-hub", "tensorflow-text", "numpy")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}
