import gc
import threading
import time

import numpy as np
import pyarrow as pa
import pytest

from tests.pictures import folder_of_pictures
from tf_finetune.data.pictures import store
from tf_finetune.data.pictures.store import Look, pixel_store
from tf_finetune.data.pipeline import evaluation_dataset, training_dataset
from tf_finetune.errors import UserError

LOOK = Look(size=(16, 24))


@pytest.fixture
def table(tmp_path):
    paths = sorted(folder_of_pictures(tmp_path, count=6).rglob("*.png"))
    return pa.table({"image": [*map(str, paths), "no/such/file.png"]})


def all_rows(table):
    return np.arange(table.num_rows - 1)


def test_batches_are_the_pictures_in_the_order_asked_for(table, tmp_path):
    pixels = pixel_store(table, all_rows(table), tmp_path, "a", LOOK)
    rows = np.array([7, 2, 11, 2])
    batch = pixels.batch(rows)
    assert batch.shape == (4, 16, 24, 3)
    assert batch.dtype == np.uint8
    for found, row in zip(batch, rows, strict=True):
        assert np.array_equal(found, LOOK.of(table["image"][row].as_py()))
    assert pixels.lengths.tolist() == [1] * 13


def test_rows_that_were_left_out_are_black_and_never_read(table, tmp_path):
    pixels = pixel_store(table, np.array([5, 3, 4]), tmp_path, "a", LOOK)
    batch = pixels.batch(np.array([12, 0, 4]))
    assert not batch[:2].any()
    assert np.array_equal(batch[2], LOOK.of(table["image"][4].as_py()))


def test_kept_pixels_are_those_decoded_each_time(table, tmp_path, monkeypatch):
    kept = pixel_store(table, all_rows(table), tmp_path, "a", LOOK)
    monkeypatch.setattr(store, "_MOST_KEPT", 1000)
    other = tmp_path / "other"
    other.mkdir()
    decoded = pixel_store(table, all_rows(table), other, "a", LOOK)
    assert not list(other.iterdir())
    rows = np.array([3, 1, 8])
    assert np.array_equal(kept.batch(rows), decoded.batch(rows))


def test_decoded_once_and_anew_for_another_look_or_other_data(table, tmp_path, monkeypatch):
    seen = []
    whole = store.decode
    monkeypatch.setattr(store, "decode", lambda *given: seen.append(1) or whole(*given))
    pixel_store(table, all_rows(table), tmp_path, "a", LOOK)
    assert len(seen) == 12
    pixel_store(table, all_rows(table), tmp_path, "a", LOOK).batch(np.array([1]))
    assert len(seen) == 12
    pixel_store(table, all_rows(table), tmp_path, "a", Look(size=(16, 24), how="squash"))
    assert len(seen) == 24
    pixel_store(table, all_rows(table), tmp_path, "b", LOOK)
    assert len(seen) == 36


def test_a_picture_that_is_gone_is_named_and_nothing_half_is_kept(table, tmp_path):
    with pytest.raises(UserError, match=r'"no/such/file.png": missing picture. It was readable'):
        pixel_store(table, np.arange(table.num_rows), tmp_path, "a", LOOK)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_datasets_of_pictures(table, tmp_path):
    pixels = pixel_store(table, all_rows(table), tmp_path, "a", LOOK)
    labels = np.array([0] * 6 + [1] * 6 + [-1], np.int32)
    options = {"batch_size": 4, "seed": 1}

    def first(dataset, count):
        return [(x.numpy(), y.numpy()) for x, y in dataset.take(count)]

    whole = first(training_dataset(pixels, labels, all_rows(table), **options), 6)
    later = training_dataset(
        pixels, labels, all_rows(table), **options, first_epoch=1, first_batch=1
    )
    for (a, b), (c, d) in zip(whole[4:], first(later, 2), strict=True):
        assert a.dtype == np.uint8
        assert np.array_equal(a, c)
        assert np.array_equal(b, d)
    passes = evaluation_dataset(pixels, labels, all_rows(table), batch_size=5)
    assert np.concatenate([y for _, y in first(passes, 9)]).tolist() == [0] * 6 + [1] * 6


def decoders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]


def test_batches_made_ahead_leave_no_thread_behind(table, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_MOST_KEPT", 0)
    pixels = pixel_store(table, all_rows(table), tmp_path, "a", LOOK)
    labels = np.arange(table.num_rows, dtype=np.int32)
    dataset = training_dataset(pixels, labels, all_rows(table), batch_size=4, seed=0)
    iterator = iter(dataset)
    for _ in range(5):
        images, rows = next(iterator)
        expected = [LOOK.of(table["image"][int(row)].as_py()) for row in rows]
        assert np.array_equal(images, expected)
    del iterator, dataset
    gc.collect()
    for _ in range(100):
        if not decoders():
            break
        time.sleep(0.1)
    assert decoders() == []
