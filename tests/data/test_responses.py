"""Prompts and responses as tokens, and several rows packed into one."""

import numpy as np
import pyarrow as pa
import pytest

from tests.language import byte_tokenizer
from tf_finetune.data.responses import (
    EXAMPLES,
    POSITIONS,
    ResponseLabels,
    choose_pair_length,
    encode_pairs,
    lost,
    packed,
    packs_of,
    response_store,
)


def table(prompts, responses):
    return pa.table({"text": prompts, "label": responses})


def store_of(prompts, responses, folder, length=64):
    rows = np.arange(len(prompts))
    return response_store(byte_tokenizer(length), table(prompts, responses), rows, folder, "")


def text_of(preprocessor, ids):
    letters = {i: one for one, i in preprocessor.tokenizer.vocabulary.items()}
    return "".join(letters[i] for i in ids.tolist())


def test_only_the_response_and_the_end_are_foreseen():
    preprocessor = byte_tokenizer()
    (row,) = encode_pairs(preprocessor, 64)(["ab"], ["cde"])
    assert text_of(preprocessor, row["token_ids"]) == "<|endoftext|>abcde<|endoftext|>"
    target = row["target"]
    assert target[:2].tolist() == [-1, -1]  # what follows the start and "a" is of the prompt
    assert text_of(preprocessor, target[2:-1]) == "cde<|endoftext|>"
    assert target[-1] == -1
    # The prompt is cut as it is where the model is to respond to it.
    asked = preprocessor.generate_preprocess(["ab"], sequence_length=64)
    length = int(np.asarray(asked["padding_mask"]).sum())
    ids = np.asarray(asked["token_ids"])[0, :length]
    np.testing.assert_array_equal(row["token_ids"][:length], ids)


@pytest.mark.parametrize("length", [8, 5])
def test_what_goes_beyond_the_length_is_cut_off_and_told(length, tmp_path):
    store = store_of(["abcdef", "a"], ["xy", "xyz"], tmp_path, length)
    assert store.lengths.max() == length
    line = lost(store, np.arange(2))
    if length == 8:
        assert line.startswith("of 1 rows the end is beyond 8 tokens, of 0 of them")
    else:
        assert line.startswith("of 2 rows the end is beyond 5 tokens, of 1 of them")
    assert lost(store_of(["a"], ["x"], tmp_path), np.arange(1)) == ""


def test_batches_are_padded_and_labels_with_them(tmp_path):
    store = store_of(["abcdefghij", "a"], ["xy", "z"], tmp_path)
    batch, labels = store.batch(np.array([1, 0])), ResponseLabels(store)[np.array([1, 0])]
    assert batch.keys() == {"token_ids", "padding_mask"}
    assert batch["token_ids"].shape == labels.shape == (2, 16)
    assert (labels >= 0).sum(axis=1).tolist() == [2, 3]
    assert batch["padding_mask"].sum(axis=1).tolist() == [4, 14]
    np.testing.assert_array_equal(ResponseLabels(store)[:2], labels[::-1])


def test_every_row_is_in_one_pack_and_none_is_too_full():
    lengths = np.random.default_rng(0).integers(1, 65, 1000)
    rows = np.flatnonzero(lengths % 7 != 0)
    packs = packs_of(lengths, rows, 64)
    np.testing.assert_array_equal(np.sort(np.concatenate(packs)), rows)
    sums = np.array([lengths[pack].sum() for pack in packs])
    assert sums.max() <= 64
    assert len(packs) <= 11 / 9 * np.ceil(lengths[rows].sum() / 64) + 1
    # By hand: the longest first, each where it first fits.
    by_hand: list[list[int]] = []
    for row in rows[np.argsort(-lengths[rows], kind="stable")].tolist():
        fits = [pack for pack in by_hand if lengths[pack].sum() + lengths[row] <= 64]
        (fits[0] if fits else by_hand).append(row if fits else [row])
    assert [pack.tolist() for pack in packs] == by_hand
    assert packs_of(np.array([5]), np.array([0]), 8)[0].tolist() == [0]


def test_a_pack_holds_its_rows_with_their_numbers_and_places(tmp_path):
    store = store_of(["ab", "c", "abcdefgh"], ["x", "yz", "w"], tmp_path, 12)
    more, packs = packed(store, np.array([0, 1, 2]))
    assert [more.members(row) for row in packs.tolist()] == [[2], [0, 1]]
    batch, labels = more.batch(packs), ResponseLabels(more)[packs]
    assert batch[EXAMPLES][1].tolist() == [1] * 5 + [2] * 5 + [0] * 2
    assert batch[POSITIONS][1].tolist() == [*range(5), *range(5)] + [0] * 2
    alone = ResponseLabels(store)
    np.testing.assert_array_equal(labels[1, :5], alone[np.array([0])][0, :5])
    np.testing.assert_array_equal(labels[1, 5:10], alone[np.array([1])][0, :5])
    # Of a single row too, where a network wants to be told.
    assert more.batch(np.array([1]))[EXAMPLES][0].tolist() == [1] * 5 + [0] * 3
    assert more.lengths[packs].tolist() == [11, 10]


def test_the_length_holds_prompt_and_response():
    prompts, responses = ["a" * i for i in range(1, 31)], ["b" * 10] * 30
    found = choose_pair_length(byte_tokenizer(), table(prompts, responses), np.arange(30), 96)
    assert found == 48  # 30 + 10, a start and an end
