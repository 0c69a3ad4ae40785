import numpy as np
import pytest

from tests.tiny import tiny_preprocessor
from tf_finetune.data.augment import TokenNoise, token_noise
from tf_finetune.data.pipeline import training_dataset
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

CLS, SEP, PAD, MASK = 2, 3, 0, 4


def noise(deletion=0.0, swap=0.0, masking=0.0):
    return TokenNoise(
        deletion=deletion,
        swap=swap,
        special=(CLS, SEP, PAD, MASK),
        padding=PAD,
        masking=masking,
        mask_id=MASK,
    )


def batch(*texts, length=12):
    """Rows of [CLS] text [SEP] (text [SEP])."""
    ids = np.full((len(texts), length), PAD, "int32")
    segments = np.zeros_like(ids)
    mask = np.zeros_like(ids)
    for i, text in enumerate(texts):
        pieces = text if isinstance(text, tuple) else (text,)
        row = [CLS, *(token for piece in pieces for token in [*piece, SEP])]
        ids[i, : len(row)] = row
        segments[i, 2 + len(pieces[0]) : len(row)] = 1
        mask[i, : len(row)] = 1
    return {"token_ids": ids, "segment_ids": segments, "padding_mask": mask}


def real(made, row=0):
    return made["token_ids"][row][made["padding_mask"][row] == 1].tolist()


def test_nothing_to_do_changes_nothing():
    given = batch(range(10, 16), range(10, 12))
    made = noise()(given, np.random.default_rng(0))
    for key in given:
        np.testing.assert_array_equal(made[key], given[key])


def test_tokens_are_left_out_and_the_rest_keeps_its_order():
    given = batch(range(10, 20))
    kept = []
    for seed in range(300):
        tokens = real(noise(deletion=0.3)(given, np.random.default_rng(seed)))
        assert (tokens[0], tokens[-1]) == (CLS, SEP)
        assert tokens[1:-1] == sorted(set(tokens[1:-1]))
        kept.append(len(tokens) - 2)
    assert np.mean(kept) == pytest.approx(7, abs=0.3)
    assert real(given) == [CLS, *range(10, 20), SEP]


def test_one_token_of_each_text_stays():
    made = noise(deletion=0.999)(batch(([10, 11], [12, 13])), np.random.default_rng(0))
    tokens = real(made)
    assert [token for token in tokens if token < 10] == [CLS, SEP, SEP]
    assert len(tokens) == 5
    assert made["segment_ids"][0, :5].tolist() == [0, 0, 0, 1, 1]
    # A text without a token stays without.
    assert real(noise(deletion=0.9)(batch([]), np.random.default_rng(0))) == [CLS, SEP]


def test_swapping_moves_tokens_within_their_text_only():
    given = batch(([10, 11, 12], [20, 21, 22]))
    seen = set()
    for seed in range(50):
        tokens = real(noise(swap=0.7)(given, np.random.default_rng(seed)))
        assert [tokens[0], tokens[4], tokens[8]] == [CLS, SEP, SEP]
        assert sorted(tokens[1:4]) == [10, 11, 12]
        assert sorted(tokens[5:8]) == [20, 21, 22]
        seen.add(tuple(tokens))
    assert len(seen) > 5


def test_tokens_are_masked_in_their_places():
    given = batch((range(10, 20), [20, 21]), length=16)
    masked = []
    for seed in range(300):
        made = noise(masking=0.3)(given, np.random.default_rng(seed))
        changed = made["token_ids"] != given["token_ids"]
        assert (made["token_ids"][changed] == MASK).all()
        assert not changed[given["token_ids"] < 10].any()
        for key in ("segment_ids", "padding_mask"):
            np.testing.assert_array_equal(made[key], given[key])
        masked.append(changed[0, 1:11].sum())
    assert np.mean(masked) == pytest.approx(3, abs=0.2)
    assert MASK not in given["token_ids"]


def test_one_token_of_each_text_is_never_masked():
    given = batch(([10, 11], [12]), [13, 14, 15])
    made = noise(masking=0.999)(given, np.random.default_rng(0))
    first, second = real(made), real(made, 1)
    assert (first.count(MASK), first[4]) == (1, 12)
    assert second.count(MASK) == 2


def test_masking_leaves_what_the_other_changes_do_as_it_was():
    given = batch(range(10, 20))
    plain, masked = (
        noise(deletion=0.3, swap=0.5, masking=m)(given, np.random.default_rng(5))
        for m in (0.0, 0.4)
    )
    stays = masked["token_ids"] != MASK
    assert not stays.all()
    np.testing.assert_array_equal(masked["token_ids"][stays], plain["token_ids"][stays])


class Rows:
    lengths = np.full(8, 12)

    def batch(self, rows):
        return batch(*[range(10, 20)] * len(rows))


def epochs(seed, first=0):
    dataset = training_dataset(
        Rows(),
        np.zeros(8, "int32"),
        np.arange(8),
        batch_size=4,
        seed=seed,
        first_epoch=first,
        noise=noise(deletion=0.3, masking=0.2),
    )
    return [x["token_ids"].numpy() for x, _ in dataset.take(4)]


def test_it_follows_from_the_seed_and_the_epoch():
    for a, b in zip(epochs(0), epochs(0), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(epochs(0)[2:], epochs(0, first=1), strict=False):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(epochs(0)[0], epochs(0)[2])
    assert not np.array_equal(epochs(0)[0], epochs(1)[0])


def test_the_noise_of_a_preprocessor_leaves_its_special_tokens_alone():
    preprocessor = tiny_preprocessor()
    assert token_noise(preprocessor, DataConfig()) is None
    made = token_noise(preprocessor, DataConfig(token_deletion=0.1, token_swap=0.2))
    tokenizer = preprocessor.tokenizer
    assert {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id} <= set(
        made.special
    )
    assert made.padding == tokenizer.pad_token_id
    assert (made.masking, made.mask_id) == (0.0, 4)
    assert token_noise(preprocessor, DataConfig(token_mask=0.2)).masking == 0.2


def test_masking_needs_a_mask_token():
    class Tokenizer:
        special_token_ids, pad_token_id = [0, 1], 0

    class Preprocessor:
        tokenizer = Tokenizer()

    assert token_noise(Preprocessor(), DataConfig(token_deletion=0.1))
    with pytest.raises(UserError, match=r"token_mask is 0.2.* a Tokenizer, has no mask token"):
        token_noise(Preprocessor(), DataConfig(token_mask=0.2))
