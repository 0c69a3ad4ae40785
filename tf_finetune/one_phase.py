"""One phase of a run: on what it trains, from which state, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from tf_finetune.assemble import Setup
from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.fit.examples import examples_of_rows
from tf_finetune.fit.frozen_part import FrozenPart
from tf_finetune.fit.held_out import Scores, activated, held_out
from tf_finetune.fit.loop import fit_phase, run_adamw
from tf_finetune.fit.objective import objective_of
from tf_finetune.fit.phase_result import PhaseResult
from tf_finetune.fit.recompute import recomputed_blocks
from tf_finetune.fit.resuming import Saving
from tf_finetune.fit.seeds import best_of_seeds, seeds_of
from tf_finetune.fit.solve_phase import solve_phase
from tf_finetune.fit.steps import step_of
from tf_finetune.fit.strategy import is_chief
from tf_finetune.kept import views_of
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import frozen_dropout_off, set_trainable
from tf_finetune.optim.carry import State
from tf_finetune.results import frozen_features


def run_phase(
    setup: Setup,
    config: FineTuneConfig,
    phase: Phase,
    number: int,
    run: Path,
    state: State,
    say: Callable[[str], None],
    saving: Saving | None = None,
    frozen: FrozenPart | None = None,
) -> tuple[PhaseResult, Scores]:
    """Runs a phase; where it trains the head alone, also says how good that is."""
    task, splits, fit = setup.task, setup.prepared.splits, config.fit
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, phase.train, phase.batch_norm)
    middle = saving.middle_of(number) if saving else None
    if middle:
        middle.restore(task.network)
    network, store, body = task.network, setup.store, None
    if phase.train == "head" and frozen and task.one_vector:
        network, store = task.head, frozen.features(number)
        if number <= 1 and is_chief():  # of the pretrained backbone as it is
            try:
                frozen_features.keep(run / "cache", store, splits, config.data.seed)
            except OSError as error:
                say(f"phase {phase.name}: its features are not kept for the report ({error})")
    elif frozen:
        before = middle.facts.get("cut", False) if middle else None
        found = frozen.of_phase(number, mixes=fit.mixup > 0, before=before)
        store, network, body = found or (store, network, None)
    solved = network is task.head and fit.probe_solver == "lbfgs"
    # What is solved is solved on the rows as they are.
    views = None if solved or network is task.network else views_of(setup, config)
    if views:
        say(f"phase {phase.name}: epochs take turns at {views.views} changed versions of each row")
    elif network is task.head and setup.inputs.noise:
        say(f"phase {phase.name}: the head sees the rows as they are, which config.data changes")
    kept = 0.0 if network is task.network or not frozen else frozen.share(number)
    if solved:
        result = solve_phase(
            task,
            store,
            setup.labels,
            splits,
            phase,
            fit,
            number=number,
            workdir=run,
            say=say,
        )
        result.kept_share = kept
        return result, activated(task.kind, held_out(network, store, splits, fit.eval_batch))
    objective = objective_of(task, fit.label_smoothing)

    def trained(seed: int, run: Path, state: State, say: Callable[[str], None]) -> PhaseResult:
        examples = examples_of_rows(
            store,
            setup.labels,
            splits["train"],
            splits["validation"],
            dataclasses.replace(fit, seed=seed),
            # What is kept is of rows as they are, or of changed versions of them.
            setup.inputs.noise if network is task.network else None,
            begin=(middle.epoch, middle.batch) if middle else (0, 0),
            version=views.of_epoch if views else None,
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
                step=step_of(task, network, fit, body),
                spike_guard=fit.spike_guard,
                ema=fit.ema,
                steps_per_execution=fit.steps_per_execution,
                # Of several seeds all are trained again.
                saving=saving if len(seeds) == 1 else None,
                say=say,
            )

    # A head that an earlier phase has trained goes on from there.
    seeds = seeds_of(fit.seed, fit.probe_seeds if network is task.head and not state else 1)
    result = best_of_seeds(
        trained, network, seeds, objective=objective, state=state, workdir=run, say=say
    )
    result.kept_share = kept
    if network is not task.head:  # activations are kept of some rows alone
        network, store = task.network, setup.store
    logits = held_out(network, store, splits, fit.eval_batch) if phase.train == "head" else {}
    return result, activated(task.kind, logits)


def run_aside(
    setup: Setup,
    config: FineTuneConfig,
    phase: Phase,
    run: Path,
    say: Callable[[str], None],
    saving: Saving | None = None,
    frozen: FrozenPart | None = None,
) -> Scores:
    """Scores of the head after a phase on it alone; the task is left as it was."""
    network = setup.task.network
    backbone = {variable.path for variable in setup.task.backbone.weights}
    # The head, and the state of every dropout's random numbers.
    before = [(v, v.numpy()) for v in network.variables if v.path not in backbone]
    _, scores = run_phase(setup, config, phase, 0, run, {}, say, saving, frozen)
    for variable, value in before:
        variable.assign(value)
    return scores
