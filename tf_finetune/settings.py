"""The sections of a configuration: every setting with its default."""

# No `from __future__ import annotations` here: it would turn the fields' types
# into strings, and config_flags parses `--config.fit.epochs=3` by the type itself.
import dataclasses
from typing import Any


@dataclasses.dataclass(slots=True, kw_only=True)
class DataConfig:
    """Where the labelled examples come from, and how they are checked and split.

    Attributes:
        path: a file, a glob, a folder of text files or pictures by class, or several of
            them separated by commas. `.csv`, `.tsv`, `.jsonl` and `.parquet`,
            each also gzipped; a `.zip` or `.tar` of a folder of pictures.
            For token classification also `.conll`, `.txt` and `.tsv`: a word first and its tag
            last in each line, a blank line between sentences.
            `package:NAME/FILE` is a file inside an installed Python package, which is
            read but never imported.
        tfds: a TensorFlow Datasets name that has been prepared on this machine.
        tfds_dir: the folder it was prepared in; empty means the TFDS default.
        delimiter: between the columns of a CSV file; empty means `,` for `.csv`
            and a tab for `.tsv`.
        encoding: of text files.
        where: `COLUMN=VALUE` keeps only the rows with that value.
        text: the column that holds the text; for token classification a list of words.
        text_pair: the column of a second text, for tasks on pairs.
        image: the column that holds the path of a picture, from the data file's folder on;
            in place of `text`. Folders by class, archives and arrays of pictures need none.
        label: the column that holds the label; for token classification a list of tags, in
            IOB1, IOB2, BIOES or BILOU.
        label_separator: between the labels of one row in a multi-label column.
        classes: the labels that are allowed, in order; empty means those found. For token
            classification the types of entities.
        group: rows with the same value in this column stay in one split; of CoNLL files
            `document`, which -DOCSTART- lines divide.
        slice: a column, such as that of a row's source, by whose values the results are
            also told one by one.
        split: the column that names the split of each row.
        train: the name of the training split in `split` or of the TFDS split.
        validation: a fraction of the rows (`"0.1"`), a file as in `path`, or,
            with `split` or `tfds`, the name of a split.
        test: as `validation`.
        retained: files as in `path`, of the same columns and classes, whose rows are never
            trained on: how good the model is on them is reported from before tuning and
            after it. `where` and `split` do not apply to them.
        limit: train on at most this many rows; 0 means all.
        leaks: what to do with training rows that also stand in validation, test or
            retained: `error`, `drop` them from training, or `warn`.
        duplicates: what to do with exact copies inside the training split.
        conflicts: what to do with training rows of equal text, unequal label.
        bad_rows: what to do with rows that are empty, null, unreadable or of an
            unknown label.
        near_duplicates: Jaccard similarity of word 3-grams from which two texts count
            as near duplicates, 0 to 1, or how alike two pictures look; 0 turns the search
            off.
        token_deletion: chance of a training token to be left out, anew in each epoch,
            0 to 1; not while the frozen backbone's outputs are cached.
        token_swap: share of a training text's tokens that change places, likewise.
        token_mask: chance of a training token to be replaced by the mask token, likewise;
            only for a backbone that was pretrained to fill masks.
        augment: how much training pictures are changed, anew in each epoch: `none`, `light`,
            `medium` or `strong`; not while the frozen backbone's outputs are cached.
        flip: whether a training picture may also be mirrored, left for right. Digits, texts
            and signs mean something else in the mirror.
        min_per_class: a class with fewer training rows is an error.
        seed: of the split made here and of `limit`.
    """

    path: str = ""
    tfds: str = ""
    tfds_dir: str = ""
    delimiter: str = ""
    encoding: str = "utf-8"
    where: str = ""
    text: str = "text"
    text_pair: str = ""
    image: str = ""
    label: str = "label"
    label_separator: str = "|"
    classes: tuple[str, ...] = ()
    group: str = ""
    slice: str = ""
    split: str = ""
    train: str = "train"
    validation: str = "0.1"
    test: str = "0.1"
    retained: str = ""
    limit: int = 0
    leaks: str = "drop"
    duplicates: str = "drop"
    conflicts: str = "drop"
    bad_rows: str = "error"
    near_duplicates: float = 0.8
    token_deletion: float = 0.0
    token_swap: float = 0.0
    token_mask: float = 0.0
    augment: str = "none"
    flip: bool = False
    min_per_class: int = 2
    seed: int = 0


@dataclasses.dataclass(slots=True, kw_only=True)
class ModelConfig:
    """The pretrained backbone and the head put on it.

    Attributes:
        preset: a KerasHub preset name, `hf://OWNER/NAME`, a local Hugging Face or
            KerasHub folder, a `.keras` file, or `minilm` (the packaged one). For pictures
            also `keras.applications:NAME`, a timm folder, or `efficientnet_lite0` (packaged).
        task: `classification` (one label a row), `multi_label`, `regression`, or
            `token_classification` (one tag a word, as for names of people and places).
        pooling: how token states, or the places of a picture, become one vector: `first`,
            `mean`, `max`, or `backbone` for the backbone's own pooled output.
        dropout: rate in front of the head's last layer, 0 to 1.
        sequence_length: tokens a text is cut to; 0 chooses it from the data, up
            to the backbone's limit.
        image_size: pixels a side that a picture is resized to; 0 means as the backbone was
            trained.
        image_resize: how a picture gets a square's shape: `crop` its longer sides, `squash`
            it, or `pad` it with black.
        lora_rank: of the adapters, where a phase trains `lora`.
        lora_alpha: an adapter counts `lora_alpha / lora_rank`.
        lora_targets: which kernels get an adapter, as in `Phase.train`.
    """

    preset: str = "minilm"
    task: str = "classification"
    pooling: str = "mean"
    dropout: float = 0.1
    sequence_length: int = 0
    image_size: int = 0
    image_resize: str = "crop"
    lora_rank: int = 8
    lora_alpha: float = 16.0
    lora_targets: str = "re:(query|value)"


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
        patience: epochs without a better validation loss before a phase ends;
            0 means never. A phase always ends on its best epoch.
        global_batch: examples an update, over all devices.
        micro_batch: examples of a batch that go through the network at a time, for less
            memory; an update still takes `global_batch`. 0 means all at once, or as many
            as fit where memory is scarce; -1 has that tried out in any case.
        eval_batch: examples a step in evaluation.
        steps_per_execution: updates in one call of TensorFlow, which saves time where they
            are short; the run is looked at, and saved, at the end of each call.
        save_every: updates between two checkpoints from which a stopped run goes on; 0 saves
            as often as takes less than 2% of the time.
        gradient_checkpointing: compute the activations of each block again in the backward
            pass instead of keeping them: less memory, the same weights, more time.
        precision: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where the
            processor multiplies it natively. Variables are always float32.
        interpolate: end with the best weights between before and after tuning (WiSE-FT).
        retained_floor: least accuracy on `data.retained` of the weights that `interpolate`
            may choose, by single labels where a row has several; for regression the
            largest mean absolute error; 0 means any.
        peer_timeout: seconds that a worker waits for the others at the start, where a run has
            several.
        cache: run what is frozen once, not once an epoch, where that takes less time.
        cache_precision: in which what it gives is kept: `computed`, as it is, or `float32`,
            `bfloat16` or `float16`.
        cache_memory: GB of it that are held in memory; more is read from the run folder.
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
    eval_batch: int = 128
    steps_per_execution: int = 1
    save_every: int = 0
    gradient_checkpointing: bool = False
    precision: str = "auto"
    interpolate: bool = False
    retained_floor: float = 0.0
    peer_timeout: float = 300.0
    cache: bool = True
    cache_precision: str = "computed"
    cache_memory: float = 1.0
    seed: int = 0
    strategy: str = "none"


@dataclasses.dataclass(slots=True, kw_only=True)
class ResultsConfig:
    """What to report and save.

    Attributes:
        bootstrap: resamples behind each 95% interval.
        probe_baseline: also score the head trained alone on the frozen backbone.
        calibrate: divide the logits by a temperature, fitted on the validation split, so
            that probabilities come true as often as they say; not for regression and token
            classification.
        label_audit: also look for training rows whose label is probably wrong, in one pass
            over them; for classification.
        drift: also say how far each block of the backbone has moved; takes a second copy of
            it in memory at the end.
        export: write what `formats` names.
        previous: the folder of a finished run that was tested on the same rows, to set
            this one beside: its figures, and whether the difference may be chance.
        formats: `saved_model`, to serve; `litert` and `onnx` (extras), for other runtimes; of
            pictures `litert_dynamic` and `litert_int8`, in 8 bits; of texts `keras_hub` and
            `hugging_face` (a BERT with `model.pooling=backbone`, a DistilBERT with `first`).
    """

    bootstrap: int = 1000
    probe_baseline: bool = True
    calibrate: bool = True
    label_audit: bool = True
    drift: bool = True
    export: bool = True
    previous: str = ""
    formats: tuple[str, ...] = ("saved_model",)


@dataclasses.dataclass(slots=True, kw_only=True)
class TuneConfig:
    """What `--mode=tune` tries.

    Attributes:
        trials: at most so many.
        minutes: no trial begins after so many; 0 means any number.
        space: by setting, as `"fit.learning_rate"`, a list of values or a dict with `low`,
            `high` and perhaps `log`; in JSON on the command line. Empty means the
            recipe's rate within a factor of 10, `fit.weight_decay`, `model.dropout` and,
            where they apply, `fit.layer_decay` and `fit.label_smoothing`.
    """

    trials: int = 20
    minutes: float = 0.0
    space: Any = dataclasses.field(default_factory=dict)
