"""Tags in any scheme become IOB2, and what is wrong with them is found."""

import numpy as np
import pytest

from tests.tokens import write_conll
from tf_finetune.config import FineTuneConfig
from tf_finetune.data.prepare import prepare
from tf_finetune.data.tags import tag_names
from tf_finetune.errors import UserError

# The same entities: of two words, of one, and two of one type side by side.
IOB2 = ["B-PER", "I-PER", "O", "B-LOC", "O", "B-PER", "B-PER", "I-PER"]
SCHEMES = {
    "IOB1": ["I-PER", "I-PER", "O", "I-LOC", "O", "I-PER", "B-PER", "I-PER"],
    "BIOES": ["B-PER", "E-PER", "O", "S-LOC", "O", "S-PER", "B-PER", "E-PER"],
    "BILOU": ["B-PER", "L-PER", "O", "U-LOC", "O", "U-PER", "B-PER", "L-PER"],
    "IOB2": IOB2,
}


@pytest.fixture
def prepared(tmp_path):
    """Prepares rows of these tags, each with words of its own."""

    def go(tags, words=None, **data):
        words = words or [[f"w{i}x{j}" for j in range(len(row))] for i, row in enumerate(tags)]
        config = FineTuneConfig()
        config.model.task = "token_classification"
        config.data.path = str(write_conll(tmp_path / "a.conll", words, tags))
        config.data.near_duplicates = 0.0
        for key, value in data.items():
            setattr(config.data, key, value)
        config.validate()
        return prepare(config, tmp_path)

    return go


def names(found, row):
    return [found.tags.names[code] for code in found.tags.of(row)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_becomes_iob2_and_is_said(prepared, scheme):
    found = prepared([SCHEMES[scheme]] * 20)
    assert names(found, 7) == IOB2
    assert found.class_names == ("LOC", "PER")
    assert found.findings.kinds() == ()
    said = "Tags are IOB2; 160 words, 80 entities."
    if scheme != "IOB2":
        changed = sum(a != b for a, b in zip(SCHEMES[scheme], IOB2, strict=True)) * 20
        said = f"They were converted to IOB2, which changed {changed} tags."
    assert said in found.tags.note
    assert said in found.report
    assert found.tags.note.startswith(f"Tags are {scheme};")


def test_rows_are_split_by_the_types_that_stand_in_them(prepared):
    rows = [["B-PER", "O"]] * 20 + [["O", "B-LOC"]] * 20 + [["O", "O"]] * 10
    found = prepared(rows, validation="0.2", test="0.2")
    for split in ("validation", "test"):
        held = found.labels[found.splits[split]]
        assert held.sum(axis=0).tolist() == [4, 4]
        assert (held.sum(axis=1) == 0).sum() == 2


def test_documents_stay_together(tmp_path):
    text = "".join(f"-DOCSTART- O\n\nw{i}a B-X\nv O\n\nw{i}b O\nu B-X\n\n" for i in range(20))
    (tmp_path / "a.conll").write_text(text)
    config = FineTuneConfig()
    config.model.task, config.data.path = "token_classification", str(tmp_path / "a.conll")
    config.data.group, config.data.near_duplicates = "document", 0.0
    found = prepare(config, tmp_path)
    assert len(found.splits["test"]) == 4
    assert {row // 2 for row in found.splits["test"]}.isdisjoint(
        {row // 2 for row in found.splits["train"]}
    )


ORPHAN = [["B-X", "O"]] * 20 + [["O", "I-X"]]


def test_an_entity_that_nothing_begins_is_an_error_by_default(prepared):
    with pytest.raises(UserError, match=r"1 x I- without begin: \S+a\.conll:61 \"I-X of w20x1"):
        prepared(ORPHAN)


def test_it_is_left_out_or_repaired_where_the_policy_says_so(prepared):
    dropped = prepared(ORPHAN, bad_rows="drop")
    assert sum(map(len, dropped.splits.values())) == 20
    kept = prepared(ORPHAN, bad_rows="warn")
    assert sum(map(len, kept.splits.values())) == 21
    assert names(kept, 20) == ["O", "B-X"]
    assert "Kept: the word begins an entity" in kept.findings.to_markdown()


def test_another_type_in_the_middle_begins_nothing(prepared):
    with pytest.raises(UserError, match="I-Y of w20x1"):
        prepared([["B-X", "B-Y"]] * 20 + [["B-X", "I-Y"]])


@pytest.mark.parametrize("tag", ["X-PER", "PER", "B_PER", "B-", "b-PER", "o"])
def test_what_is_no_tag_is_found(prepared, tag):
    with pytest.raises(
        UserError, match=rf"1 x unknown tag: \S+a\.conll:61 \"{tag} of w20x1 \(word 2"
    ):
        prepared([["B-PER", "O"]] * 20 + [["O", tag]])


def test_types_are_those_of_training_or_those_that_are_listed(prepared, tmp_path):
    test = write_conll(tmp_path / "test.conll", [["q", "r"]], [["B-NEW", "O"]])
    with pytest.raises(UserError, match=r"1 x unknown label: \S+test\.conll:1 \"B-NEW of q"):
        prepared([["B-PER", "O"]] * 20, test=str(test))
    found = prepared(
        [["B-PER", "B-LOC"]] * 20 + [["B-ORG", "O"]], classes=("PER", "LOC"), bad_rows="drop"
    )
    assert (
        found.tags.names == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC") == tag_names(("PER", "LOC"))
    )


def test_nothing_to_learn_is_refused(prepared):
    with pytest.raises(
        UserError, match="no word of the training rows belongs to an entity: all tags are O"
    ):
        prepared([["O", "O"]] * 20)
    with pytest.raises(UserError, match="all words of the 16 training rows have the tag B-X"):
        prepared([["B-X"]] * 20)


def test_a_type_with_too_few_rows_is_refused(prepared):
    with pytest.raises(UserError, match=r'config\.data\.min_per_class is 2.*"Y" has 1'):
        prepared([["B-X", "O"]] * 20 + [["B-Y", "O"]])


def test_equal_rows_are_copies_and_those_of_other_tags_conflicts(prepared):
    words = [[f"w{i}", "v"] for i in range(20)]
    found = prepared(
        [["B-X", "O"]] * 20 + [["B-X", "O"], ["O", "B-X"]],
        [*words, words[0], words[1]],
        validation="0.1",
    )
    assert found.findings.count("label conflict") == 2
    # The copy stands in one split with its like.
    copies = [split for split, rows in found.splits.items() for row in rows if row in (0, 20)]
    assert len(set(copies)) == 1


def test_the_digest_knows_tags_and_where_words_end(prepared):
    rows = [["B-X", "O"]] * 20
    digests = {prepared(rows).digest}
    digests.add(prepared([*rows[:-1], ["O", "B-X"]]).digest)
    digests.add(
        prepared(
            [["B-X"], *rows[1:]], [["w0x0 w0x1"], *([f"w{i}x0", f"w{i}x1"] for i in range(1, 20))]
        ).digest
    )
    assert len(digests) == 3
    assert np.array_equal(*(prepared(rows).tags.codes for _ in range(2)))


@pytest.mark.parametrize("classes", [("O", "PER"), ("B-PER", "I-PER")])
def test_classes_are_types(prepared, classes):
    with pytest.raises(UserError, match="name the types of entities, as PER,LOC"):
        prepared([["B-PER", "O"]] * 20, classes=classes)
