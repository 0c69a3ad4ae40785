"""Files that are not what they should be: one clear message, nothing written."""

from __future__ import annotations

import gzip
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tf_finetune.data import files, parquet
from tf_finetune.data.sources import read
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, so that messages show short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(here, **settings):
    return read(DataConfig(**settings), "classification", here / "run")


def save_csv(path, count=1):
    path.write_text("text,label\n" + "good film,pos\nbad film,neg\n" * count)


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.csv", b"", {}, r'"a\.csv" is empty'),
        ("a.jsonl", b"", {}, r'"a\.jsonl" is empty'),
        ("a.csv", b"text,label\n", {}, r'"a\.csv" has columns but no rows'),
        ("a.csv", b"text;label\nx;y\n", {}, r"--config\.data\.delimiter=';'"),
        ("a.csv", b"text\tlabel\nx\ty\n", {}, r"a tab stands.*delimiter=\$'\\t'"),
        ("a.csv", b"text,lable\nx,y\n", {}, r'no column "label".*It has: "text", "lable".*mean'),
        ("a.csv", b"text,label\nx,y\n", {"text": "label"}, r"are both \"label\""),
        ("a.csv", b"text,label\nx,y\n", {"where": "s=1"}, r"config\.data\.where"),
        ("a.csv", b"text,text,label\nx,z,y\n", {}, r'more than one column "text"'),
        ("a.csv", b"text,label\nx,y\nx,y,z\n", {}, r"a\.csv:3: found 3 fields, expected 2"),
        ("a.csv", b'text,label\nx,y\n"x\ny,z\n', {}, r"a\.csv:3: .*unexpected end"),
        ("a.csv", b'text,label\n"a "b" c",y\n', {}, r"a\.csv:2: .*written twice"),
        ("a.csv", bytes(range(256)), {}, r"binary file"),
        ("a.csv", bytes(range(200, 255)) + b",label\n", {}, r"another encoding"),
        ("a.csv", b"text,label\nx,y\n", {"encoding": "utf9"}, r'encoding is "utf9"'),
        ("a.csv", b"PK\x03\x04rest", {}, r"zip or Excel"),
        ("a.csv", "text,label\n".encode("utf-16"), {}, r"encoding=utf-16"),
        (
            "a.csv.gz",
            gzip.compress(b"text,label\nx,y\n" * 99, mtime=0)[:40],
            {},
            r"not a whole gzip file",
        ),
        ("a.csv.gz", b"text,label\nx,y\n", {}, r"not a whole gzip file"),
        (
            "a.csv",
            b"text,label\n" + b"caf\xe9 au lait,y\n" * 20,
            {},
            r"20 of 20 rows are not utf-8",
        ),
        ("a.csv", b"text,label\n,y\n,\n", {}, r"No row .*2 x empty text"),
        (
            "a.tsv",
            b'text\tlabel\n"This is great.\tpos\nI loved it."\tneg\nbad\tneg\n',
            {},
            r"a\.tsv:2: a field in double quotes runs over several lines .*swallowed",
        ),
        ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', {}, r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b'["a", 1]\n', {}, r"a\.jsonl:1: found \['a', 1\]"),
        ("a.jsonl", b'{"text": "a", "y": 1}\n', {}, r'no column "label".*"text", "y"'),
        ("a.jsonl", b'{"text": ["a"], "label": 1}\n', {}, r"a\.jsonl:1: config\.data\.text"),
        ("a.jsonl", b"\n\n", {}, r"no rows"),
        ("a.jsonl", b'{"text": "a"}\n' * 1000 + b"broken", {}, r'no column "label"'),
        ("a.jsonl", b'{"text": "a", "label": 1}\n', {"label": ""}, r"config\.data\.label is empty"),
        ("a.csv", "text,label\nx,y".encode("utf-16") + b"z", {"encoding": "utf-16"}, r"utf-16"),
        ("a.parquet", b"nonsense", {}, r"not a Parquet file"),
        ("a.parquet", b"", {}, r"is empty"),
        ("a.json", b"[]", {}, r'unknown extension "\.json".*\.jsonl'),
        ("a", b"", {}, r"unknown extension"),
    ],
)
def test_broken_files(here, name, content, settings, message):
    (here / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(here, path=name, **settings)
    assert not list(here.glob("run/*"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", r"No data: set config\.data\.path"),
        ("reviws.csv", r'config\.data\.path: there is no file "reviws\.csv".*mean "reviews\.csv"'),
        ("no/a.csv", r'folder "no" does not exist'),
        ("*.tsv", r'no file matches "\*\.tsv"'),
        ("reviews.csv,", r"comma"),
        ("package:no_such/a.csv", r"not installed"),
        ("x" * 5000 + ".csv", r"there is no file"),
    ],
)
def test_missing_files(here, path, message):
    save_csv(here / "reviews.csv")
    with pytest.raises(UserError, match=message):
        load(here, path=path)


def test_a_missing_split_file_is_named_by_its_setting(here):
    save_csv(here / "a.csv")
    with pytest.raises(UserError, match=r"config\.data\.test: there is no file"):
        load(here, path="a.csv", test="test")


def test_a_parquet_file_cut_short(here):
    table = pa.table({"text": [os.urandom(50).hex() for _ in range(5000)], "label": ["a"] * 5000})
    pq.write_table(table, here / "a.parquet", compression="none", use_dictionary=False)
    whole = bytearray((here / "a.parquet").read_bytes())
    whole[4:1000] = b"\xff" * 996
    (here / "a.parquet").write_bytes(whole)
    with pytest.raises(UserError, match=r"a\.parquet\" is damaged"):
        load(here, path="a.parquet")


def test_a_full_disk_is_one_clear_message(here):
    save_csv(here / "a.csv", 50_000)
    (here / "run").mkdir()
    (here / "run" / "rows.arrow").write_text("kept")
    (here / "run" / "rows.arrow.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"Cannot write .*No space left"):
        load(here, path="a.csv")
    assert (here / "run" / "rows.arrow").read_text() == "kept"


def test_a_failed_read_keeps_the_table_before_it(here):
    save_csv(here / "a.csv")
    load(here, path="a.csv")
    (here / "a.csv").write_text("text,label\nx,y\nz\n")
    before = (here / "run" / "rows.arrow").read_bytes()
    with pytest.raises(UserError, match=r"a\.csv:3"):
        load(here, path="a.csv")
    assert os.listdir(here / "run") == ["rows.arrow"]
    assert (here / "run" / "rows.arrow").read_bytes() == before


def test_texts_in_folders_that_cannot_be_read(here):
    texts = here / "t" / "pos"
    texts.mkdir(parents=True)
    (texts / "a.txt").write_bytes(b"ab\n")
    with pytest.raises(UserError, match=r"a\.txt.*not text in utf-16"):
        load(here, path="t", encoding="utf-16")
    (texts / "a.txt").unlink()
    (texts / "b.txt").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"b\.txt.*cannot be read"):
        load(here, path="t")
    (here / "c.csv").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"c\.csv.*cannot be read"):
        load(here, path="*.csv")


def test_a_folder_beside_train_that_is_no_known_split(here):
    for name in ("train/pos/1", "train/neg/1", "holdout/pos/1"):
        path = here / "texts" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    with pytest.raises(UserError, match='beside it "holdout" with the same classes'):
        load(here, path="texts")
    (here / "texts" / "holdout").rename(here / "texts" / "testing")
    table, _ = load(here, path="texts")
    assert sorted(table["split"].to_pylist()) == ["", "", "test"]


def test_a_line_without_end_is_not_read_whole(here, monkeypatch):
    monkeypatch.setattr(files, "_MOST_FIELD", 1000)
    row = '{"text": "' + "x" * 990 + '", "label": "pos"}'
    (here / "a.jsonl").write_text(row + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:1: the line is longer than 1,000 characters"):
        load(here, path="a.jsonl")
    (here / "b.csv").write_text("text,label\n" + "x" * 2000 + ",pos\n")
    with pytest.raises(UserError, match=r"b\.csv:2: the line is longer"):
        load(here, path="b.csv")


def test_a_gzipped_parquet_file_that_unpacks_to_far_more(here, monkeypatch):
    monkeypatch.setattr(parquet, "_LEAST_LIMIT", 1000)
    with gzip.open(here / "a.parquet.gz", "wb") as file:
        file.write(bytes(10_000_000))
    with pytest.raises(UserError, match="unpacks to more than 100 times its size"):
        load(here, path="a.parquet.gz")


def test_a_tilde_before_what_is_no_user(here):
    with pytest.raises(UserError, match=r'there is no file "~\$a\.csv"'):
        load(here, path="~$a.csv")
    save_csv(here / "~a.csv")
    assert len(load(here, path="~a.csv")[0]) == 2


def test_a_split_column_whose_values_nobody_names(here):
    rows = "".join(f"text {i},{'ab'[i % 2]},{'train' if i < 20 else 'test'}\n" for i in range(30))
    (here / "a.csv").write_text("text,label,part\n" + rows)
    with pytest.raises(UserError, match=r'rows of "test".*--config\.data\.test=test'):
        load(here, path="a.csv", split="part")
    table, _ = load(here, path="a.csv", split="part", test="test")
    assert table["split"].to_pylist().count("test") == 10
    table, _ = load(here, path="a.csv", where="part=train")
    assert len(table) == 20
    table, _ = load(here, path="a.csv", split="part", train="test")  # it is named
    assert len(table) == 10


def test_text_folders_take_texts_alone(here):
    for name in ("neg/1.txt", "neg/2.TXT", "pos/1.txt", ".hidden/1.txt", "pos/._1.txt"):
        (here / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "texts" / name).write_text(f"text {name}")
    table, _ = load(here, path="texts")
    assert table["label"].to_pylist() == ["neg", "neg", "pos"]
    table, _ = read(DataConfig(path="texts"), "classification", here / "run", labelled=False)
    assert len(table) == 3


def test_a_list_beside_class_folders_makes_no_class_of_a_split(here):
    for split in ("train", "test"):
        for name in ("neg", "pos"):
            for i in range(2):
                file = here / "texts" / split / name / f"{i}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"text {split} {name} {i}")
    (here / "texts" / "train" / "urls.txt").write_text("http://a")
    table, _ = load(here, path="texts")
    assert set(table["label"].to_pylist()) == {"neg", "pos"}
    assert set(table["split"].to_pylist()) == {"", "test"}
