"""Words and tags from CoNLL files and from rows that hold lists."""

import json

import pytest

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.sources import read
from tf_finetune.data_checks import TOKENS
from tf_finetune.errors import UserError

CONLL = """-DOCSTART- -X- O

Ann NNP B-PER
Lee NNP I-PER

-DOCSTART- -X- O

sees VB O
Rome NNP B-LOC
"""


@pytest.fixture
def reading(tmp_path):
    """Reads a file with this content, and gives its rows."""

    def go(name, content, *, labelled=True, **data):
        (tmp_path / name).write_text(content, encoding="utf-8")
        config = FineTuneConfig()
        config.data.path = str(tmp_path / name)
        for key, value in data.items():
            setattr(config.data, key, value)
        table, findings = read(config.data, TOKENS, tmp_path, labelled=labelled)
        return table.to_pylist(), findings

    return go


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.tsv"])
@pytest.mark.parametrize("separator", [" ", "\t", "  "])
def test_the_first_column_is_the_word_and_the_last_its_tag(reading, name, separator):
    rows, findings = reading(name, CONLL.replace(" ", separator))
    assert [row["words"] for row in rows] == [["Ann", "Lee"], ["sees", "Rome"]]
    assert [row["label"] for row in rows] == [["B-PER", "I-PER"], ["O", "B-LOC"]]
    assert [row["text"] for row in rows] == ["Ann Lee", "sees Rome"]
    assert [row["row"] for row in rows] == [3, 8]
    assert findings.kinds() == ()


def test_a_word_may_hold_spaces_between_tabs(reading):
    rows, _ = reading("a.conll", "New York\tB-LOC\nis big\tO\n")
    assert rows[0]["words"] == ["New York", "is big"]


def test_documents_are_groups(reading):
    rows, _ = reading("a.conll", CONLL, group="document")
    assert len({row["group"] for row in rows}) == 2


def test_a_line_without_a_tag_is_refused_with_its_number(reading):
    with pytest.raises(UserError, match=r"a\.conll:3: found 'Rome', one column"):
        reading("a.conll", "Ann B-PER\nin O\nRome\n")


def test_columns_that_such_files_lack_are_refused(reading):
    with pytest.raises(UserError, match=r"config\.data\.where is \"lang\".*words and tags alone"):
        reading("a.conll", CONLL, where="lang=en")


def test_words_alone_are_enough_to_predict(reading):
    rows, _ = reading("a.conll", "Ann\nLee\n\nRome\n", labelled=False)
    assert [row["words"] for row in rows] == [["Ann", "Lee"], ["Rome"]]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


NAMED = {"text": "tokens", "label": "ner"}


def test_lists_of_words_and_tags_are_rows(reading):
    row = {"tokens": ["Ann", "sleeps", 7], "ner": ["B-PER", "O", "O"], "doc": "x"}
    rows, _ = reading("a.jsonl", lines(row), group="doc", **NAMED)
    assert rows[0]["words"] == ["Ann", "sleeps", "7"]
    assert (rows[0]["label"], rows[0]["group"]) == (["B-PER", "O", "O"], "x")


def test_parquet_too(reading, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"tokens": [["a", "b"]], "ner": [["O", "B-X"]]}), tmp_path / "b.parquet"
    )
    config = FineTuneConfig()
    config.data.path, config.data.text, config.data.label = (
        str(tmp_path / "b.parquet"),
        "tokens",
        "ner",
    )
    table, _ = read(config.data, TOKENS, tmp_path)
    assert table["label"].to_pylist() == [["O", "B-X"]]


GOOD = {"tokens": ["Ann"], "ner": ["B-PER"]}
BAD = [
    ({"tokens": ["a", "b"], "ner": ["O"]}, "words and tags of unequal number", "2 words, 1 tags"),
    ({"tokens": [], "ner": []}, "empty sentence", ""),
    ({"tokens": [" ", ""], "ner": ["O", "O"]}, "empty sentence", ""),
    ({"tokens": ["a"], "ner": None}, "missing label", ""),
    ({"tokens": ["a", "b"], "ner": ["O", ""]}, "missing label", ""),
]


@pytest.mark.parametrize(("row", "kind", "said"), BAD, ids=[kind for _, kind, _ in BAD])
def test_a_bad_row_is_found_where_it_stands(reading, row, kind, said):
    rows, findings = reading("a.jsonl", lines(GOOD, row), **NAMED)
    assert len(rows) == 1
    ((where, example),) = findings[kind].examples
    assert where.endswith("a.jsonl:2")
    assert said in example


REFUSED = [
    ({"tokens": "Ann sleeps", "ner": ["O", "O"]}, "lists of words; found 'Ann sleeps'"),
    ({"tokens": ["a"], "ner": "O"}, "lists of tags; found 'O'"),
    ({"tokens": ["a"], "ner": [3]}, "the tag 3 is a number; write its name"),
    ({"tokens": [["a"]], "ner": ["O"]}, "a word must be text"),
]


@pytest.mark.parametrize(("row", "message"), REFUSED)
def test_what_can_be_no_row_is_refused(reading, row, message):
    with pytest.raises(UserError, match=message) as error:
        reading("a.jsonl", lines(row), **NAMED)
    assert "a.jsonl:1" in str(error.value)


def test_a_missing_column_is_named_by_its_setting(reading):
    with pytest.raises(UserError, match=r'no column "text" \(config\.data\.text\).*"tokens"'):
        reading("a.jsonl", lines(GOOD))


def test_to_predict_a_text_may_be_whole(reading):
    rows, _ = reading("a.csv", "id,text\n1,Ann sleeps.\n2,\n", labelled=False)
    assert [(row["text"], row["words"]) for row in rows] == [("Ann sleeps.", None), ("", None)]


def test_a_folder_is_refused(reading, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"is a folder; words and tags are read from files"):
        reading("a.conll", CONLL, validation=str(tmp_path / "folder"))


def test_a_no_break_space_is_part_of_a_word(reading):
    rows, _ = reading("a.conll", "10\u00a0000 B-QTY\nkm O\n")
    assert rows[0]["words"] == ["10\u00a0000", "km"]
    rows, _ = reading("b.conll", "\u00a0\tNN\tO\nRome\tNP\tB-LOC\n")
    assert rows[0]["words"] == ["\u00a0", "Rome"]


@pytest.mark.parametrize("line", ["Rome\tNNP\t", "\tNNP\tO", "Rome\tO", "Rome\tNNP\tx\tO"])
def test_an_empty_or_missing_cell_makes_no_other_column_a_tag(reading, line):
    content = f"In\tIN\tO\n{line}\n"
    with pytest.raises(UserError, match=r":2: found .* each line has 3, as the first one"):
        reading("a.conll", content)


@pytest.mark.parametrize(
    "lines",
    [
        ["Ann\tB-PER\t", "Lee\tI-PER\t"],
        ["Ann\t\tB-PER", "Lee\tI-PER"],
        ["Ann\t\tB-PER", "Lee\tx\tI-PER"],
    ],
)
def test_tables_that_are_aligned_by_empty_cells_are_read(reading, lines):
    rows, _ = reading("a.conll", "\n".join(lines) + "\n")
    assert rows[0]["words"] == ["Ann", "Lee"]
    assert rows[0]["label"] == ["B-PER", "I-PER"]
