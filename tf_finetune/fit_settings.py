"""The section of a configuration on how to train."""

# No `from __future__ import annotations` here either; see `settings`.
import dataclasses


@dataclasses.dataclass(slots=True, kw_only=True)
class FitConfig:
    """How to train. A recipe in `FineTuneConfig.phases` reads its values here.

    Attributes:
        epochs: passes over the training split in the tuning phase; 0 chooses by the
            number of rows: as many as make 200 updates, but 2 at least and 20 at most.
        learning_rate: peak rate of the tuning phase, for `global_batch`.
        probe_epochs: passes of the head-only phase; 0 chooses by the number of rows: as
            many as make 200 updates, but 30 at least.
        probe_learning_rate: peak rate of the head-only phase.
        probe_solver: how a phase on the head alone, on cached features, finds its weights:
            `adamw` trains them, `lbfgs` takes them to the optimum under several penalties,
            without dropout, mixup or a rate, and keeps the one that is best on validation.
        probe_seeds: initial heads, each with an order of examples of its own, that the
            first phase, on the head alone, is trained from; the best on validation goes on.
        lora_learning_rate: peak rate of the adapters' phase.
        train: what the tuning phase trains, as in `Phase`.
        schedule: of the tuning phase's rate, as in `Phase`.
        warmup: share of a phase's updates in which the rate rises from 0.
        layer_decay: of the tuning phase, as in `Phase`.
        weight_decay: decoupled, as in AdamW; not on norms and biases.
        l2_sp: how strongly pretrained weights are pulled to their values before the run
            instead of to 0 (L2-SP), decoupled like `weight_decay`; 0 means not at all.
        clip: global norm that gradients are clipped to; 0 means no clipping.
        spike_guard: how often a phase may go back to its last good state when the loss
            blows up, skipping those batches and halving the rate; 0 means never.
        ema: momentum, such as 0.99, of an average of the weights over a phase's updates:
            epochs are judged by it, and the phase ends with it; 0 means none.
        label_smoothing: share of the target spread over all classes, 0 to 1.
        mixup: alpha of the Beta distribution by which the vectors in front of the head are
            mixed with those of other examples, and their losses with them; 0 mixes none.
        cutmix: of pictures, alpha of the Beta distribution of the share that a rectangle of
            another one takes (CutMix; 1 in its paper); 0 means none. Not with `mixup`.
        r_drop: weight of the disagreement between two passes with dropout (R-Drop), where
            a phase has any; 0 makes one pass.
        class_weights: `balanced` has all classes weigh the same in the training loss,
            however many rows they have; `none` has all rows.
        sampling: `balanced` draws as many rows an epoch, but all classes equally often:
            rows of rare ones repeatedly, some of frequent ones not; `shuffle` takes each
            row once.
        patience: epochs without a better validation figure, that by which the best epoch
            is chosen, before a phase ends; 0 means never. A phase always ends on its best epoch.
        global_batch: examples an update, over all devices.
        micro_batch: examples of a batch that go through the network at a time, for less
            memory; an update still takes `global_batch`. 0 means all at once, or as many
            as fit where memory is scarce; -1 has that tried out in any case.
        packing: of causal_lm, put several training rows, up to the sequence length together,
            into one, in which none sees another; `global_batch` then counts these.
        eval_batch: examples a step in evaluation.
        steps_per_execution: updates in one call of TensorFlow, which saves time where they
            are short; the run is looked at, and saved, at the end of each call.
        save_every: updates between two checkpoints from which a stopped run goes on; 0 saves
            as often as takes less than 2% of the time.
        gradient_checkpointing: compute the activations of each block again in the backward
            pass instead of keeping them: less memory, the same weights, more time.
        precision: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where the GPU, or else
            the processor, multiplies it natively, but float32 for pictures on a processor.
            Variables are always float32.
        interpolate: share of the tuned weights in those that a run ends with, beside those
            before tuning, so that less is forgotten (WiSE-FT); where more than the head was
            trained, and no adapters, and where validation loss does not rise by it. 1 ends
            with the tuned weights; 0 tries several shares, and takes the best on validation.
        retained_floor: least accuracy on `data.retained` of the weights that `interpolate`
            may choose, by single labels where a row has several; for regression the
            largest mean absolute error; 0 means any.
        peer_timeout: seconds that a worker waits for the others at the start, where a run has
            several.
        cache: run what is frozen once, not once an epoch, where that takes less time.
        cache_precision: in which what it gives is kept: `computed`, as it is, or `float32`,
            `bfloat16` or `float16`.
        cache_views: where training rows are changed anew in each epoch, how many changed
            versions of each are run through what is frozen, and kept, in their place; epochs
            take turns at them. 0 keeps none: a head alone then sees the rows as they are.
        cache_memory: GB of it that are held in memory; more is read from the disk.
        cache_folder: for what is kept, which later runs on the same rows then find there, and
            which you empty; by default it is kept in the run folder while the run trains.
        seed: of the order of examples, dropout and the head's initial weights.
        strategy: over which devices an update is spread: `none`, this machine's first;
            `mirrored`, all its GPUs; `multi_worker`, those of all hosts that `TF_CONFIG`
            names; or `tpu`. Each takes its rows of each `global_batch`.
    """

    epochs: int = 0
    learning_rate: float = 1e-4
    probe_epochs: int = 0
    probe_learning_rate: float = 3e-3
    probe_solver: str = "adamw"
    probe_seeds: int = 1
    lora_learning_rate: float = 1e-3
    train: str = "all"
    schedule: str = "linear"
    warmup: float = 0.1
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    l2_sp: float = 0.0
    clip: float = 1.0
    spike_guard: int = 3
    ema: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    r_drop: float = 0.0
    class_weights: str = "none"
    sampling: str = "shuffle"
    patience: int = 0
    global_batch: int = 32
    micro_batch: int = 0
    packing: bool = False
    eval_batch: int = 128
    steps_per_execution: int = 1
    save_every: int = 0
    gradient_checkpointing: bool = False
    precision: str = "auto"
    interpolate: float = 0.9
    retained_floor: float = 0.0
    peer_timeout: float = 300.0
    cache: bool = True
    cache_precision: str = "computed"
    cache_views: int = 0
    cache_memory: float = 1.0
    cache_folder: str = ""
    seed: int = 0
    strategy: str = "none"
