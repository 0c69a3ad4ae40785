"""Features of a head on the disk: whole or not there, and read as asked for."""

import errno

import numpy as np
import pytest

from tf_finetune.data.pipeline import evaluation_dataset
from tf_finetune.fit import kept_features
from tf_finetune.fit.kept_features import read_features, write_features

ROWS = np.array([4, 1, 7, 0, 9])
FOUND = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")


def batches():
    yield FOUND[:2]
    yield FOUND[2:]


def written(folder):
    write_features(folder, batches(), 5, 3)
    return folder


def read(folder, memory=10**9, rows=ROWS):
    return read_features(folder, rows, 10, memory)


@pytest.mark.parametrize("memory", [59, 60])
def test_rows_come_in_any_order_from_memory_and_from_the_disk(tmp_path, memory):
    store = read(written(tmp_path / "cache" / "features-a"), memory)
    assert store.in_memory == (memory == 60)  # five rows of three numbers of four bytes
    np.testing.assert_array_equal(store.batch(np.array([9, 4, 9])), FOUND[[4, 0, 4]])
    assert store.batch(np.array([], "int64")).shape == (0, 3)
    assert store.lengths.tolist() == [1] * 10
    with pytest.raises(KeyError, match="not kept"):
        store.batch(np.array([4, 2]))


def test_what_is_computed_in_half_precision_is_read_in_single(tmp_path):
    half = FOUND.astype("float16")
    write_features(tmp_path / "a", [half], 5, 3)
    found = read(tmp_path / "a").batch(ROWS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half)


def test_of_what_is_damaged_or_of_other_rows_nothing_stays(tmp_path):
    assert read(tmp_path / "a") is None
    for place in range(60):
        folder = written(tmp_path / "a")
        content = bytearray((folder / "features.bin").read_bytes())
        content[place] ^= 1
        (folder / "features.bin").write_bytes(content)
        assert read(folder) is None
        assert not folder.exists()
    for damaged in (b"", b"{", b"[]"):
        folder = written(tmp_path / "a")
        (folder / "facts.json").write_bytes(damaged)
        assert read(folder) is None
    assert read(written(tmp_path / "a"), rows=ROWS[:4]) is None


@pytest.mark.parametrize("late", [False, True])
def test_batches_that_were_begun_are_taken_when_the_disk_is_full(tmp_path, monkeypatch, late):
    """Where hosts work together the others would wait for this one."""
    taken = []

    def counted():
        for batch in batches():
            taken.append(batch)
            yield batch

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    if late:
        monkeypatch.setattr("tf_finetune.fit.activations.Writer.add", full)
    else:
        monkeypatch.setattr(kept_features, "written", full)
    with pytest.raises(OSError, match="No space"):
        write_features(tmp_path / "a", counted(), 5, 3)
    assert len(taken) == (2 if late else 0)
    assert not any(tmp_path.iterdir())


def test_an_error_at_the_very_end_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tf_finetune.fit.activations.Writer.finish", full)
    with pytest.raises(OSError, match="No space"):
        written(tmp_path / "a")
    assert not any(tmp_path.iterdir())


def test_a_dataset_of_rows_without_the_first(tmp_path):
    write_features(tmp_path / "a", [FOUND[:2]], 2, 3)
    store = read(tmp_path / "a", rows=ROWS[:2])
    (batch,) = evaluation_dataset(store, np.arange(10), np.array([1, 4]), batch_size=4)
    np.testing.assert_array_equal(batch[0], FOUND[[1, 0]])
    assert batch[0].shape[1:] == store.spec().shape[1:]
