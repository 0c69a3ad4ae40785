import numpy as np
import pyarrow as pa
import pytest

from tests.tiny import tiny_preprocessor, tiny_texts
from tf_finetune.data.text import choose_length, encode, pad, tokenize


@pytest.fixture(scope="module")
def preprocessor():
    return tiny_preprocessor()


def test_encode_then_pad_is_what_the_preprocessor_gives(preprocessor):
    texts, _ = tiny_texts(40)
    batch = pad(preprocessor, encode(preprocessor, texts))
    expected = preprocessor(texts)
    length = batch["token_ids"].shape[1]
    assert length == 16
    assert set(batch) == set(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(batch[key], np.asarray(values)[:, :length])


def test_pairs_keep_their_segments(preprocessor):
    first, second = ["good film", "bad"], ["the plot", "a fine film"]
    batch = pad(preprocessor, encode(preprocessor, first, second))
    expected = preprocessor((np.array(first, object), np.array(second, object)), y=None)
    np.testing.assert_array_equal(
        batch["segment_ids"],
        np.asarray(expected["segment_ids"])[:, : batch["segment_ids"].shape[1]],
    )
    assert batch["segment_ids"].max() == 1


@pytest.mark.parametrize(("words", "length"), [(3, 8), (7, 16), (40, 16)])
def test_padded_length_is_a_multiple_of_8_within_the_limit(preprocessor, words, length):
    batch = pad(preprocessor, encode(preprocessor, ["good " * words, "bad"]))
    assert batch["token_ids"].shape == (2, length)
    assert batch["padding_mask"].sum(axis=1).tolist() == [min(words + 2, 16), 3]


def test_store_gives_rows_in_any_order(preprocessor, tmp_path):
    texts, _ = tiny_texts(40)
    store = tokenize(preprocessor, pa.table({"text": texts}), np.arange(40), tmp_path, "digest")
    rows = np.array([31, 2, 17])
    expected = pad(preprocessor, encode(preprocessor, [texts[i] for i in rows]))
    for key, values in store.batch(rows).items():
        np.testing.assert_array_equal(values, expected[key])
    assert store.lengths.tolist() == [r["token_ids"].size for r in encode(preprocessor, texts)]


def test_only_the_rows_that_are_asked_for_are_tokenised(preprocessor, tmp_path):
    texts, _ = tiny_texts(40)
    rows = np.array([30, 4, 17])
    store = tokenize(preprocessor, pa.table({"text": texts}), rows, tmp_path, "digest")
    assert np.flatnonzero(store.lengths).tolist() == [4, 17, 30]
    expected = pad(preprocessor, encode(preprocessor, [texts[17], texts[4]]))
    np.testing.assert_array_equal(
        store.batch(np.array([17, 4]))["token_ids"], expected["token_ids"]
    )


def test_tokens_are_read_again_not_made_again(preprocessor, tmp_path):
    texts, _ = tiny_texts(10)
    table = pa.table({"text": texts})
    tokenize(preprocessor, table, np.arange(10), tmp_path, "digest")
    (folder,) = tmp_path.iterdir()
    before = (folder / "token_ids.bin").stat().st_mtime_ns
    tokenize(preprocessor, table, np.arange(10), tmp_path, "digest")
    assert (folder / "token_ids.bin").stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["digest", "length", "tokenizer"])
def test_a_change_misses_the_cache(tmp_path, change):
    table = pa.table({"text": tiny_texts(10)[0]})
    first, second = tiny_preprocessor(), tiny_preprocessor(12 if change == "length" else 16)
    if change == "tokenizer":
        second.tokenizer.lowercase = False
    tokenize(first, table, np.arange(10), tmp_path, "digest")
    tokenize(second, table, np.arange(10), tmp_path, "other" if change == "digest" else "digest")
    assert len(list(tmp_path.iterdir())) == 2


def test_length_holds_99_percent_of_the_texts():
    preprocessor = tiny_preprocessor()
    texts = ["good film"] * 990 + ["good " * 27] * 10
    table = pa.table({"text": texts})
    assert choose_length(preprocessor, table, np.arange(1000), 32) == 8
    longer = pa.table({"text": texts[:900] + ["good " * 27] * 100})
    assert choose_length(preprocessor, longer, np.arange(1000), 32) == 32
    assert choose_length(preprocessor, longer, np.arange(1000), 24) == 24


def test_a_zero_byte_is_taken_out_of_a_text():
    first, second = encode(tiny_preprocessor(), ["good\0 fi\0lm", "good film"])
    np.testing.assert_array_equal(first["token_ids"], second["token_ids"])
