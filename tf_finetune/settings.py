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
        text: the column that holds the text; for token classification a list of words, for
            causal_lm the prompt.
        text_pair: the column of a second text, for tasks on pairs.
        image: the column that holds the path of a picture, from the data file's folder on;
            in place of `text`. Folders by class, archives and arrays of pictures need none.
        label: the column that holds the label; for token classification a list of tags, in
            IOB1, IOB2, BIOES or BILOU; for causal_lm the response.
        label_separator: between the labels of one row in a multi-label column.
        soft_labels: the label column of a classification holds shares of classes, as
            `{"good": 0.7, "bad": 0.3}`; in arrays a column of shares for each class. They, or
            counts of votes, are divided by their sum. A plain label has all of it.
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
            as near duplicates, 0 to below 1, or how alike two pictures look; 0 turns the search
            off, which is made for at most 200,000 different rows.
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
    soft_labels: bool = False
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
        task: `classification` (one label a row), `multi_label`, `regression`,
            `token_classification` (one tag a word, as for names of people and places), or
            `causal_lm` (a language model learns to respond to prompts).
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
        workers: processes that try at the same time, each with its share of GPUs, or else of
            cores.
        space: by setting, as `"fit.learning_rate"`, a list of values or a dict with `low`,
            `high` and perhaps `log`; in JSON on the command line. Empty means the
            recipe's rate within a factor of 10, `fit.weight_decay`, `model.dropout` and,
            where they apply, `fit.layer_decay` and `fit.label_smoothing`.
    """

    trials: int = 20
    minutes: float = 0.0
    workers: int = 1
    space: Any = dataclasses.field(default_factory=dict)
