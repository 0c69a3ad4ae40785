"""Activations are read as they were written, whole or not at all."""

import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.data.pipeline import evaluation_dataset, training_dataset
from tf_finetune.fit.activations import ActivationStore, NotKept, read, written

LENGTHS = np.array([3, 5, 0, 1, 4])
ROWS = np.array([3, 0, 4, 1])  # row 2 is never kept
SHAPES = {"hidden": (None, 2), "pairs": (None, 3, None), "fixed": (2,), "mask": (None,)}
BFLOAT16 = tf.bfloat16.as_numpy_dtype


class Inputs:
    """Numbers, as many a row as it has tokens; padded to a multiple of 4."""

    lengths = LENGTHS

    def batch(self, rows):
        padded = -(-max(1, *LENGTHS[rows]) // 4) * 4
        found = np.zeros((len(rows), padded), "int32")
        for place, row in enumerate(rows):
            found[place, : LENGTHS[row]] = 10 * row + np.arange(LENGTHS[row])
        return {"ids": found}


def values(row, padded):
    """Of one row, with what a model makes of padding behind the real tokens."""
    random = np.random.default_rng(row)
    size = {None: padded}
    made = {
        name: random.normal(size=[size.get(n, n) for n in shape]).astype("float32")
        for name, shape in SHAPES.items()
    }
    return made | {"mask": np.arange(padded) < LENGTHS[row]}


def write(folder, dtype="", **changes):
    with written(folder, SHAPES.get, dtype, 0) as writer:
        for rows in (ROWS[:3], ROWS[3:]):
            padded = Inputs().batch(rows)["ids"].shape[1]
            found = [values(row, padded) for row in rows]
            arrays = {name: np.stack([one[name] for one in found]) for name in SHAPES}
            writer.add(arrays | changes, LENGTHS[rows], padded)


def stored(folder, memory=10**9):
    kept = read(folder, LENGTHS[ROWS])
    pick = {"input_0": lambda batch: batch["ids"]}
    return ActivationStore(folder, kept, ROWS, Inputs(), pick, memory)


def assert_row(found, place, row, dtype="float32"):
    length, padded = LENGTHS[row], found["hidden"].shape[1]
    # What was computed of padding depends on the batch: only the real tokens are the same.
    before = next(p for p in (4, 8) if p >= max(LENGTHS[ROWS[:3] if row != 1 else ROWS[3:]]))
    expected = values(row, before)
    assert found["hidden"].dtype == dtype
    for name, shape in SHAPES.items():
        real = tuple(slice(length if n is None else n) for n in shape)
        want = expected[name][real]
        want = want if name == "mask" else want.astype(dtype)
        np.testing.assert_array_equal(found[name][place][real], want)
    assert found["pairs"].shape[1:] == (padded, 3, padded)
    # Padding is of numbers that a model could have given, and no token by its mask.
    for behind in found["hidden"][place][length:]:
        np.testing.assert_array_equal(behind, found["hidden"][place][length - 1])
    assert found["mask"][place].sum() == length


@pytest.mark.parametrize("memory", [0, 10**9])
@pytest.mark.parametrize("dtype", ["", "bfloat16", "float16"])
def test_rows_come_back_in_any_order(tmp_path, memory, dtype):
    write(tmp_path / "a", dtype)
    store = stored(tmp_path / "a", memory)
    assert store.in_memory == bool(memory)
    rows = np.array([1, 3, 0])
    found = store.batch(rows)
    np.testing.assert_array_equal(found["input_0"], Inputs().batch(rows)["ids"])
    for place, row in enumerate(rows):
        assert_row(found, place, row, {"": "float32", "bfloat16": BFLOAT16}.get(dtype, dtype))


def test_only_real_tokens_take_room(tmp_path):
    write(tmp_path / "a", "float16")
    lengths = LENGTHS[ROWS]
    numbers = 2 * lengths.sum() + 3 * (lengths**2).sum() + 2 * len(ROWS)
    assert stored(tmp_path / "a").bytes == 2 * numbers + lengths.sum()


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_tensorflow_reads_batches_of_all_lengths(tmp_path, dtype):
    write(tmp_path / "a", dtype)
    store, labels = stored(tmp_path / "a"), np.arange(5)
    batches = evaluation_dataset(store, labels, ROWS, batch_size=2)
    seen = {int(row): x for x, y in batches for row in y}
    assert seen.keys() == {0, 1, 3, 4}
    assert {x["hidden"].dtype for x in seen.values()} == {tf.bfloat16 if dtype else tf.float32}
    assert {tuple(x["hidden"].shape) for x in seen.values()} == {(2, 4, 2), (2, 8, 2)}
    endless = training_dataset(store, labels, ROWS, batch_size=3, seed=0)
    assert sum(len(y) for _, y in endless.take(4)) == 2 * len(ROWS)


def test_rows_that_were_not_kept_are_not_given(tmp_path):
    write(tmp_path / "a")
    with pytest.raises(KeyError, match="not kept"):
        stored(tmp_path / "a").batch(np.array([0, 2]))


@pytest.mark.parametrize("damage", ["byte", "end", "facts", "file", "rows"])
def test_what_is_damaged_is_found_and_removed(tmp_path, damage):
    folder = tmp_path / "a"
    write(folder)
    file = folder / "hidden.bin"
    whole = file.read_bytes()
    if damage == "byte":
        file.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    elif damage == "end":
        file.write_bytes(whole[:-4])
    elif damage == "facts":
        (folder / "facts.json").write_text("{")
    elif damage == "file":
        file.unlink()
    assert (read(folder, LENGTHS[ROWS[1:] if damage == "rows" else ROWS])) is None
    assert not folder.exists()


def test_an_interrupted_writing_leaves_nothing(tmp_path):
    def write_one(needed):
        with written(tmp_path / "a", SHAPES.get, "", needed) as writer:
            writer.add({"fixed": np.zeros((1, 2), "float32")}, LENGTHS[:1], 4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_one(0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space"):
        write_one(10**18)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((1, 2), "float32"), r"gives an array of shape \(1, 2\) where \(3, 2\) would be"),
        (np.full((3, 2), 1e6, "float32"), "float16 does not hold numbers as large"),
    ],
)
def test_what_cannot_be_kept_is_said(tmp_path, array, reason):
    with pytest.raises(NotKept, match=reason):
        write(tmp_path / "a", "float16", fixed=array)
    assert not list(tmp_path.iterdir())
