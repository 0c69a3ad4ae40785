"""Opening layers epoch by epoch inside one `model.fit`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import keras

from tf_finetune.errors import UserError
from tf_finetune.fit.audit import Audit, AuditError, Snapshot
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import count_parameters, set_trainable
from tf_finetune.model.quantised import guard_saving
from tf_finetune.optim.layerwise import Layerwise, with_exclusions
from tf_finetune.optim.schedules import check_warm_up
from tf_finetune.optim.strategies import check_strategy


class GradualUnfreezing(keras.callbacks.Callback):
    """Opens more layers as the epochs of a plain `model.fit` go by (Howard & Ruder 2018).

    In Keras, setting `trainable` while `fit` runs has no effect and gives no error. This
    builds the optimiser over everything that will ever train, and has the train step
    made anew when the selection changes; momentum, step counts, the schedule's position,
    metrics and History go on. Compile the model before its layers are frozen, or with
    an optimiser that has made no step yet.

    A stock Adam gives what opens after thousands of steps a first step of about three
    times the rate, as its bias correction counts all steps alike; `LayerwiseAdamW`
    counts for each variable, and its `warmup_steps` has the rate of each rise from when it
    opens. Dropout in frozen layers stays as the model has it.

    Each stage is audited as a phase of `fit_phases` is: at the end of each epoch what is
    frozen must be bit-identical, and by the end of a stage something must have moved.

    Args:
        schedule: what trains from which epoch on, counted from 0, by the selections of
            `Phase.train`: `{0: "head", 1: "last:2", 3: "all"}`. `gradual` opens the
            head first, one block more with each epoch, and all at last.
        backbone: the pretrained part, or the name of its layer; found if not given.
        batch_norm: `freeze`, `affine` or `update`, as in `Phase`.
        say: where lines for people go; None says nothing.

    Attributes:
        audits: of the stages that have ended.

    Raises:
        AuditError: from `fit`, where a frozen variable changed, or in a whole stage
            nothing moved.
        UserError: for a schedule that is empty, does not begin at epoch 0, selects
            nothing, or is longer than the training; or an optimiser that cannot open
            layers, or accumulates gradients over the end of an epoch. From `fit`, before
            the first step, but where only the first epoch tells how many batches it has.
    """

    def __init__(
        self,
        schedule: Mapping[int, str] | str = "gradual",
        *,
        backbone: keras.Model | str | None = None,
        batch_norm: str = "freeze",
        say: Callable[[str], None] | None = print,
    ) -> None:
        super().__init__()
        if isinstance(schedule, str) and schedule != "gradual":
            raise UserError(
                f'schedule is "{schedule}"; give "gradual", or selections by epoch: '
                '{0: "head", 2: "all"}.'
            )
        if not isinstance(schedule, str) and min(schedule, default=-1) != 0:
            raise UserError(
                f"schedule is {dict(schedule)!r}; say what trains from epoch 0 on: "
                '{0: "head", 2: "all"}.'
            )
        self._given, self._backbone, self._batch_norm = schedule, backbone, batch_norm
        self._say = say or (lambda line: None)
        self._current: str | None = None
        self._audit: Audit | None = None
        self.audits: list[Audit] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        check_strategy(self.model, self._inner())
        guard_saving(self.model)
        self._groups = layer_groups(self.model, self._backbone)
        self._schedule = self._stages()
        for (_, before), (epoch, train) in itertools.pairwise(sorted(self._schedule.items())):
            if train == before:
                self._say(f'schedule: epoch {epoch} has "{train}" as before, and opens nothing.')
        self._check_accumulation(self.params["steps"])
        if batches := self.params["steps"]:
            last = (self.params["epochs"] - max(self._schedule)) * batches
            every = getattr(self._inner(), "gradient_accumulation_steps", None) or 1
            check_warm_up(self._inner(), last // every)
        self._current, self._audit, self.audits = None, None, []
        opened: dict[int, keras.Variable] = {}
        for train in dict.fromkeys(self._schedule.values()):
            set_trainable(self._groups, train, self._batch_norm)
            opened |= {id(v): v for v in self.model.trainable_variables}
        # In the model's own order, which `fit` hands them over in.
        self._build([v for v in self.model.variables if id(v) in opened])

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        train = self._schedule[max(first for first in self._schedule if first <= epoch)]
        if train == self._current:
            return
        if self._current is not None:
            self._check_accumulation(int(self._inner()._iterations.numpy()))
        self._end_stage()
        self._current, self._first = train, epoch
        set_trainable(self._groups, train, self._batch_norm)
        self.model.make_train_function(force=True)
        trainable, total = count_parameters(self.model)
        self._say(
            f"epoch {epoch + 1}: trainable {trainable:,} of {total:,} ({trainable / total:.1%})"
        )
        self._snapshot = Snapshot(self.model)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        # Of each epoch: at the end of training others may have brought back earlier weights.
        self._audit, self._last = self._snapshot.compare(), epoch

    def on_train_end(self, logs: dict | None = None) -> None:
        self._end_stage()

    def _end_stage(self) -> None:
        if self._audit is None:
            return
        self._say(f"epochs {self._first + 1} to {self._last + 1}: {self._audit}")
        try:
            self._audit.check_moved(strict=False)
        except AuditError as error:
            raise AuditError(f'train="{self._current}": {error}') from None
        self.audits.append(self._audit)
        self._audit = None

    def _inner(self) -> keras.optimizers.Optimizer:
        outer = self.model.optimizer
        return getattr(outer, "inner_optimizer", outer)

    def _check_accumulation(self, batches: int | None) -> None:
        """Of what opens within an update, some parts would have no gradient."""
        every = getattr(self._inner(), "gradient_accumulation_steps", None)
        if every and batches and batches % every and len(self._schedule) > 1:
            raise UserError(
                f"the optimizer has gradient_accumulation_steps={every}, which does not divide "
                f"{batches} batches, so that layers would open between the parts of one update; "
                "choose it, or the steps_per_epoch of fit, so that it divides those of an epoch."
            )

    def _stages(self) -> dict[int, str]:
        """The schedule by epoch, checked against the epochs that `fit` will run."""
        epochs = self.params["epochs"]
        if isinstance(self._given, str):
            blocks = len(self._groups.blocks)
            stages = ["head", *(f"last:{k}" for k in range(1, blocks + 1)), "all"]
            stem, *_, head = self._groups.weights()
            # Without a stem the last block opens all; without a head there is none to train.
            stages = stages[0 if head else 1 : None if stem else -1]
            schedule = dict(enumerate(stages))
            hint = f"set epochs={len(stages)} or more, or give selections by epoch"
        else:
            schedule = {int(epoch): train for epoch, train in self._given.items()}
            hint = f"set epochs={max(schedule) + 1} or more, or begin earlier"
        if max(schedule) >= epochs:
            raise UserError(
                f"schedule opens layers at epoch {max(schedule)}, counted from 0, but fit has "
                f"epochs={epochs}; {hint}."
            )
        return schedule

    def _build(self, variables: list[keras.Variable]) -> None:
        """Has the optimiser know everything that will ever train."""
        outer, optimizer = self.model.optimizer, self._inner()
        if isinstance(optimizer, keras.optimizers.MultiOptimizer):
            raise UserError(
                f"the model was compiled with {type(optimizer).__name__}, which cannot train a "
                "part of its variables; use LayerwiseAdamW with multipliers."
            )
        if optimizer.use_ema and not isinstance(optimizer, Layerwise):
            raise UserError(
                f"the model was compiled with {type(optimizer).__name__}(use_ema=True), which "
                "mixes up the averages of variables when some are frozen; use LayerwiseAdamW."
            )
        with self.model.distribute_strategy.scope():
            if not outer.built:
                outer.build(variables)
                return
            known = {id(v) for v in optimizer._trainable_variables}
            missing = [v.path for v in variables if id(v) not in known]
            if not missing:
                return
            if int(optimizer.iterations.numpy()):
                raise UserError(
                    f"the optimiser has made {int(optimizer.iterations.numpy())} steps without "
                    f"{len(missing)} variables that are to open ({', '.join(missing[:3])}, ...); "
                    "compile the model again, with a new optimiser, before this fit."
                )
            fresh = type(outer).from_config(outer.get_config())
            with_exclusions(getattr(fresh, "inner_optimizer", fresh), optimizer)
            fresh.build(variables)
        self.model.optimizer = fresh
