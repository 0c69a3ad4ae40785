import csv

import pytest

from tf_finetune.data import findings as module
from tf_finetune.data.findings import Findings
from tf_finetune.errors import UserError


@pytest.fixture
def findings():
    found = Findings()
    for row in range(1, 8):
        found.add("empty text", f"a.csv:{row}", "x " * 100)
    found.add("unknown label", "a.csv:9", "maybe")
    return found


def test_counts_all_and_keeps_five_examples(findings):
    assert findings.count("empty text") == 7
    assert findings.count("leak") == 0
    assert len(findings["empty text"].examples) == 5
    assert findings.kinds() == ("empty text", "unknown label")


def test_long_examples_are_cut_and_put_on_one_line(findings):
    findings.add("leak", "a.csv:1", "a\n\tb")
    assert findings["leak"].examples == [("a.csv:1", "a b")]
    assert len(findings["empty text"].examples[0][1]) <= 120


def test_the_error_names_counts_places_and_the_mend(findings):
    with pytest.raises(UserError) as error:
        findings.enforce(("empty text", "unknown label", "leak"), "error", "bad_rows")
    message = str(error.value)
    assert "7 x empty text, 1 x unknown label" in message
    assert "a.csv:1" in message
    assert "and 5 more" in message
    assert "--config.data.bad_rows=drop" in message
    assert "leak" not in message


@pytest.mark.parametrize("policy", ["drop", "warn"])
def test_other_policies_go_on(findings, policy):
    findings.enforce("empty text", policy, "bad_rows")


def test_nothing_found_is_no_error(findings):
    findings.enforce("leak", "error", "leaks")


def test_the_report_has_each_kind_its_action_and_examples(findings):
    findings.act("empty text", "Left out.")
    findings.act("leak", "Left out.")
    text = findings.to_markdown()
    assert "### Empty text: 7\n\nLeft out.\n" in text
    assert "- and 2 more, in `findings.csv` of a run" in text
    assert "- `a.csv:9`: maybe" in text
    assert "Leak" not in text


def test_all_places_are_listed(findings):
    findings.add("leak", 'a, "b".csv:1', "x,y")
    rows = list(csv.reader(findings.to_csv().splitlines()))
    assert rows[0] == ["kind", "place", "text"]
    assert [place for kind, place, _ in rows if kind == "empty text"] == [
        f"a.csv:{row}" for row in range(1, 8)
    ]
    assert rows[-1] == ["leak", 'a, "b".csv:1', "x,y"]
    assert Findings().to_csv() == ""


def test_the_list_is_bounded(findings, monkeypatch):
    monkeypatch.setattr(module, "MOST_LISTED", 7)
    findings.add("empty text", "a.csv:10")
    assert findings.count("empty text") == 8
    assert findings.to_csv().count("empty text") == 7


def test_an_empty_report_says_so():
    assert Findings().to_markdown() == "Nothing was found wrong with the rows.\n"
