"""The whole story of a run, from raw data to a served model."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa

from tf_finetune import workdir as folder
from tf_finetune.config import FineTuneConfig, ModelConfig, Phase
from tf_finetune.data.prepare import Prepared, prepare
from tf_finetune.data.text import TokenStore, choose_length, tokenize
from tf_finetune.errors import UserError
from tf_finetune.fit import precision
from tf_finetune.fit.feature_cache import cache_features, outputs_of
from tf_finetune.fit.loop import FitData, OptimizerState, PhaseResult, fit_phase
from tf_finetune.fit.phases import phases_of
from tf_finetune.model import backbones, heads
from tf_finetune.model.freezing import layer_groups, set_trainable
from tf_finetune.model.task import TextTask
from tf_finetune.results import evaluate, export, report
from tf_finetune.results.load import load_model


@dataclasses.dataclass(slots=True, kw_only=True)
class FitResult:
    """What a run gives back.

    Attributes:
        metrics: the card, as in `metrics.json`: `metrics["test"]["accuracy"]`.
        history: one dict an epoch over all phases, as in `metrics.jsonl`.
        model: the fine-tuned `TextTask`; `model.predict(["a text"])`.
        workdir: the run folder.
    """

    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    model: Any
    workdir: Path


@dataclasses.dataclass(slots=True, kw_only=True)
class Setup:
    """Data and model of a run, ready to train."""

    prepared: Prepared
    task: TextTask
    tokens: TokenStore
    precision: str


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
    began = time.perf_counter()
    config.validate()
    run = Path(workdir)
    if folder.prepare_workdir(run, config):
        say(f"{run} holds this run, finished; nothing to do.")
        return load_result(run)

    # 1. Data and 2. model: everything that can be wrong is found here.
    setup = set_up(config, run / "cache", data, say=say)
    prepared, task = setup.prepared, setup.task
    folder.write_atomically(run / "data_report.md", prepared.report)
    folder.write_atomically(run / folder.CONFIG, config.to_json())
    (run / "metrics.jsonl").write_text("")

    # 3. Freeze and 4. fit, phase by phase.
    ready = time.perf_counter()
    probe: dict[str, np.ndarray] = {}
    results: list[PhaseResult] = []
    state: OptimizerState = {}
    phases = phases_of(config)
    with precision.computing_in(setup.precision, task.encoder):
        if config.results.probe_baseline and phases[0].train != "head":
            probe = _probe_baseline(setup, config, run, say)
        for number, phase in enumerate(phases, 1):
            result, scores = _run_phase(setup, config, phase, number, run, state, say)
            results.append(result)
            probe = probe or scores
    trained = time.perf_counter()

    # 5. Evaluate what will be shipped: float32, the test split once.
    rows = {name: prepared.splits[name] for name in ("validation", "test")}
    scores = {
        name: outputs_of(task.scorer, setup.tokens, chosen, batch_size=config.fit.eval_batch)
        for name, chosen in rows.items()
    }
    card = evaluate.card(
        kind=config.model.task,
        class_names=prepared.class_names,
        labels=prepared.labels,
        splits=prepared.splits,
        outputs=scores,
        probe=probe,
        bootstrap=config.results.bootstrap,
        seed=config.data.seed,
    )

    # 6. Save: the Keras model to go on with, and the SavedModel to serve.
    _save_model(task, run / folder.MODEL)
    exported = _export(task, setup, config, run) if config.results.export else None
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
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "precision": setup.precision,
        "sequence_length": task.preprocessor.sequence_length,
        "export": dataclasses.asdict(exported) if exported else None,
        "versions": versions(),
        "command": command,
        "data_digest": prepared.digest,
    }
    folder.write_atomically(run / "report.md", report.render(card, config, prepared))
    # Last of all: a folder with a card is a finished run.
    folder.write_atomically(run / folder.CARD, json.dumps(card, indent=2, default=str) + "\n")
    say(report.summary(card, run))
    return FitResult(
        metrics=card, history=[row for r in results for row in r.history], model=task, workdir=run
    )


def load_result(workdir: Path) -> FitResult:
    """The result of a finished run, from its folder."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return FitResult(
        metrics=json.loads((workdir / folder.CARD).read_text()),
        history=[json.loads(line) for line in lines],
        model=load_model(workdir),
        workdir=workdir,
    )


def set_up(
    config: FineTuneConfig, cache: Path, data: Any = None, *, say: Callable[[str], None] = print
) -> Setup:
    """Prepares data and model; trains nothing.

    Args:
        config: of the run, validated.
        cache: a folder for the rows and their tokens.
        data: as in `fine_tune`.
        say: where lines for people go.

    Raises:
        UserError: for a mistake in data, preset or sequence length.
    """
    keras.utils.set_random_seed(config.fit.seed)
    loaded = backbones.load(config.model.preset)
    _check_length(config.model, loaded.max_length)
    cache.mkdir(parents=True, exist_ok=True)
    prepared = prepare(config, cache, data)
    counts = ", ".join(f"{name} {len(rows):,}" for name, rows in prepared.splits.items())
    say(f"data: {counts}; {len(prepared.class_names)} classes"
        if config.model.task != "regression" else f"data: {counts}")
    preprocessor = loaded.preprocessor
    preprocessor.sequence_length = config.model.sequence_length or choose_length(
        preprocessor, prepared.table, prepared.splits["train"], loaded.max_length
    )
    tokens = tokenize(preprocessor, prepared.table, cache, prepared.digest)
    targets = prepared.labels[prepared.splits["train"]]
    regression = config.model.task == "regression"
    task = TextTask(
        loaded.backbone,
        preprocessor,
        kind=config.model.task,
        class_names=prepared.class_names,
        pooling=config.model.pooling,
        dropout=config.model.dropout,
        exact_gelu=loaded.exact_gelu,
        target_mean=float(targets.mean()) if regression else 0.0,
        target_std=float(targets.std()) if regression else 1.0,
    )
    chosen = precision.resolve(config.fit.precision)
    say(
        f"model: {config.model.preset}, {config.model.pooling} pooling, "
        f"{preprocessor.sequence_length} tokens at most, {chosen}"
    )
    return Setup(prepared=prepared, task=task, tokens=tokens, precision=chosen)


def _check_length(model: ModelConfig, most: int) -> None:
    if model.sequence_length > most:
        raise UserError(
            f"config.model.sequence_length is {model.sequence_length}; "
            f"{model.preset} takes at most {most} tokens."
        )


def _run_phase(
    setup: Setup,
    config: FineTuneConfig,
    phase: Phase,
    number: int,
    run: Path,
    state: OptimizerState,
    say: Callable[[str], None],
) -> tuple[PhaseResult, dict[str, np.ndarray]]:
    """Runs a phase; where it trains the head alone, also says how good that is."""
    task, splits = setup.task, setup.prepared.splits
    set_trainable(layer_groups(task.network, task.backbone), phase.train)
    network, store = task.network, setup.tokens
    if phase.train == "head" and config.fit.cache:
        say(f"phase {phase.name}: running the frozen backbone once over all rows")
        rows = np.concatenate(list(splits.values()))
        store = cache_features(task.encoder, store, rows, batch_size=config.fit.eval_batch)
        network = task.head
    result = fit_phase(
        network,
        FitData(
            store=store,
            labels=setup.prepared.labels,
            train=splits["train"],
            validation=splits["validation"],
        ),
        phase,
        config.fit,
        kind=task.kind,
        workdir=run,
        number=number,
        state=state,
        full=task.network,
        say=say,
    )
    scores = {}
    if phase.train == "head":
        for name in ("validation", "test"):
            logits = outputs_of(network, store, splits[name], batch_size=config.fit.eval_batch)
            scores[name] = np.asarray(keras.activations.get(heads.activation(task.kind))(logits))
    return result, scores


def _probe_baseline(
    setup: Setup, config: FineTuneConfig, run: Path, say: Callable[[str], None]
) -> dict[str, np.ndarray]:
    """Scores of the head trained alone; the task is left as it was."""
    untrained = setup.task.head.get_weights()
    probe = phases_of(dataclasses.replace(config, phases="probe"))[0]
    probe.name = "probe-baseline"
    _, scores = _run_phase(setup, config, probe, 0, run, {}, say)
    setup.task.head.set_weights(untrained)
    return scores


def _save_model(task: TextTask, file: Path) -> None:
    temporary = file.with_name(f"writing-{file.name}")
    task.save(temporary)
    os.replace(temporary, file)


def _export(
    task: TextTask, setup: Setup, config: FineTuneConfig, run: Path
) -> export.ExportInfo:
    rows = setup.prepared.splits["test"][:64]
    names = [name for name in ("text", "text_pair") if name in setup.prepared.table.column_names]
    chosen = setup.prepared.table.select(names).take(pa.array(rows))
    return export.export(task, run / "export", [chosen[name].to_pylist() for name in names])


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide the numbers."""
    names = ("tf_finetune", "tensorflow", "keras", "keras-hub", "tensorflow-text", "numpy")
    return {"python": platform.python_version()} | {n: metadata.version(n) for n in names}
