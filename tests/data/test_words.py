"""Texts to words and pieces."""

import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_preprocessor
from tf_finetune.data.pieces import PieceLabels, encode_words, lost, piece_store
from tf_finetune.data.spans import entities, in_characters, in_iob2, places_of, tagged
from tf_finetune.data.tags import Tags
from tf_finetune.data.text import encode
from tf_finetune.data.words import divided
from tf_finetune.model.wordpiece import FaithfulBertTokenizer

DIVIDED = {
    "Ann Lee's U.S. trip, at 3,000 ft.": "Ann|Lee's|U.S|.|trip|,|at|3,000|ft|.",
    "  AT&T\tis\n(very) well-known—no?": "AT&T|is|(|very|)|well-known|—|no|?",
    "2024-05-01 O’Neil a,b": "2024-05-01|O’Neil|a|,|b",  # noqa: RUF001
    "café e\u0301t\u0301 👍🏽 x\u00a0y\u200bz\x00w": "café|e\u0301t\u0301|👍|🏽|x|y|z|w",
    "": "",
    " \u200b ": "",
}


@pytest.mark.parametrize(("text", "words"), DIVIDED.items())
def test_a_text_is_divided_by_the_rule(text, words):
    found, starts, ends = divided(tf.constant([text]))
    assert [w.decode() for w in found[0].numpy()] == (words.split("|") if words else [])
    # The places point at the words, in characters too.
    for word, a, b in zip(found[0].numpy(), starts[0].numpy(), ends[0].numpy(), strict=True):
        assert text.encode()[a:b] == word
        first, last = in_characters(text, np.array([a, b]))
        assert text[first:last] == word.decode()


@pytest.fixture
def faithful():
    preprocessor = tiny_preprocessor()
    vocabulary = preprocessor.tokenizer.get_vocabulary()
    preprocessor.tokenizer = FaithfulBertTokenizer(vocabulary, lowercase=True)
    return preprocessor


WORDS = [
    ["Films", "the", "plots", "xyz", "GOOD"],
    [],
    ["a"] * 40,
    ["the", "\u200b", "good", "", "bad"],
    ["good-bad", "[SEP]", "the film"],
]


def test_pieces_are_those_of_the_words_with_spaces_between(faithful):
    for preprocessor in (tiny_preprocessor(), faithful):
        found = encode_words(preprocessor, ["token_ids", "segment_ids", "padding_mask"])(WORDS)
        whole = encode(preprocessor, [" ".join(row) for row in WORDS])
        for row, expected in zip(found, whole, strict=True):
            assert row["token_ids"].tolist() == expected["token_ids"].tolist()
            assert row["segment_ids"].tolist() == expected["segment_ids"].tolist()


def test_a_word_begins_at_its_first_piece_and_vanishing_ones_nowhere(faithful):
    found = encode_words(faithful, ["token_ids", "padding_mask"])(WORDS)
    assert "segment_ids" not in found[0]
    assert found[0]["word"].tolist() == [-1, 0, -1, 1, 2, -1, 3, 4, -1]
    assert found[1]["word"].tolist() == [-1, -1]
    assert found[2]["word"].tolist() == [-1, *range(14), -1]
    assert found[3]["word"].tolist() == [-1, 0, 2, 4, -1]
    assert found[4]["word"].tolist() == [-1, 0, -1, -1, 1, 2, -1, -1]


def tags_of(rows):
    offsets = np.cumsum([0, *map(len, rows)])
    return Tags(
        types=("X",),
        codes=np.concatenate(rows).astype("int32"),
        offsets=offsets,
        known=np.ones(len(rows), bool),
        note="",
    )


def test_labels_stand_at_first_pieces_padded_as_the_rows_are(faithful, tmp_path):
    import pyarrow as pa

    tags = tags_of([np.arange(len(row)) % 3 for row in WORDS])
    rows = np.array([0, 2, 3, 4])
    names = ["token_ids", "segment_ids", "padding_mask"]
    table = pa.table({"words": WORDS})
    for _ in range(2):  # the second time from files
        store = piece_store(faithful, names, table, rows, tmp_path, "digest")
        labels = PieceLabels(store, tags)
        batch = store.batch(np.array([3, 0]))
        assert set(batch) == set(names)
        found = labels[np.array([3, 0])]
        assert found.shape == batch["token_ids"].shape
        assert found.dtype == np.int32
        assert found[0].tolist() == [-1, 0, 2, 1, -1, *[-1] * 11]
        assert found[1].tolist() == [-1, 0, -1, 1, 2, -1, 0, 1, -1, *[-1] * 7]
        assert (
            labels[np.array([3])].shape == store.batch(np.array([3]))["token_ids"].shape == (1, 8)
        )
    assert labels[:1].ndim == 2
    said = lost(store, tags, rows)
    # Of the third row 26 words are cut, of the fourth two have no piece.
    unseen = tags.of(2)[14:].tolist() + tags.of(3)[[1, 3]].tolist()
    assert said.startswith(f"28 words of 2 rows, {sum(code > 0 for code in unseen)} of them")
    assert "beyond 16 tokens" in said
    assert lost(store, tags, np.array([0, 4])) == ""


def test_spans_have_type_text_places_and_probability():
    names = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    text, starts, ends = places_of(["Ann", "Lee", "in", "Rome"])
    shares = np.zeros((4, 5), "float32")
    # The first is tagged I-PER, which begins an entity; the last word was not seen.
    shares[0, 2], shares[1, 2], shares[2, 3] = 0.5, 0.9, 0.7
    found = tagged(text, ["Ann", "Lee", "in", "Rome"], starts, ends, shares, names)
    assert found.tags == ["B-PER", "I-PER", "B-LOC", "O"]
    assert found.unseen == 1
    first, second = found.spans
    assert (first.type, first.text, first.words) == ("PER", "Ann Lee", (0, 2))
    assert text[first.start : first.end] == "Ann Lee"
    assert first.probability == pytest.approx(0.7)
    assert (second.type, text[second.start : second.end]) == ("LOC", "in")


def test_broken_sequences_are_read_as_seqeval_reads_them():
    from seqeval.metrics.sequence_labeling import get_entities

    generator = np.random.default_rng(0)
    tags = ["O", "B-A", "I-A", "B-B", "I-B"]
    for _ in range(300):
        row = generator.choice(tags, 9).tolist()
        ours = [(kind, first, last - 1) for kind, first, last in entities(in_iob2(row))]
        assert ours == get_entities(row)
