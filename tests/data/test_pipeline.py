import gc
import time
import weakref

import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.data.pipeline import (
    evaluation_dataset,
    evaluation_order,
    plan_epoch,
    told,
    training_dataset,
)
from tf_finetune.errors import UserError

LENGTHS = np.random.default_rng(0).integers(1, 60, size=333)


class Numbers:
    """A store whose inputs are the row numbers themselves."""

    lengths = LENGTHS

    def batch(self, rows):
        return {"row": rows.astype("float32")}


def test_plan_holds_every_example_once():
    batches = plan_epoch(LENGTHS, 8, seed=1, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(333))
    assert sorted(map(len, batches))[1:] == [8] * 41


def test_plan_is_a_pure_function_of_seed_and_epoch():
    def plan(seed, epoch):
        return np.concatenate(plan_epoch(LENGTHS, 8, seed, epoch)).tolist()

    assert plan(1, 2) == plan(1, 2)
    assert len({tuple(plan(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_batches_hold_examples_of_similar_length():
    padded = sum(len(b) * LENGTHS[b].max() for b in plan_epoch(LENGTHS, 8, 0, 0))
    order = np.random.default_rng(0).permutation(333)
    random = sum(len(b) * LENGTHS[b].max() for b in np.array_split(order, 42))
    assert padded < 1.1 * LENGTHS.sum() < 0.75 * random


def test_training_goes_on_epoch_after_epoch_each_in_its_own_order():
    rows = np.arange(10, 30)
    dataset = training_dataset(Numbers(), np.arange(333), rows, batch_size=6, seed=0)
    batches = [(x["row"].numpy(), y.numpy()) for x, y in dataset.take(8)]
    epochs = [np.concatenate([x for x, _ in batches[i : i + 4]]) for i in (0, 4)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == rows.tolist()
    assert epochs[0].tolist() != epochs[1].tolist()
    assert all(np.array_equal(x, y) for x, y in batches)
    later = training_dataset(Numbers(), np.arange(333), rows, batch_size=6, seed=0, first_epoch=1)
    assert np.array_equal(next(iter(later))[0]["row"], batches[4][0])


def test_training_begins_at_any_batch_with_all_that_follows_from_its_place():
    def noise(x, generator):
        return {"row": x["row"] + generator.random()}

    given = (Numbers(), np.arange(333), np.arange(10, 30))
    how = {"batch_size": 6, "seed": 0, "noise": noise}
    whole = [x["row"].numpy() for x, _ in training_dataset(*given, **how).take(12)]
    later = training_dataset(*given, **how, first_epoch=1, first_batch=3)
    for expected, (found, _) in zip(whole[7:], later.take(5), strict=True):
        np.testing.assert_array_equal(expected, found["row"])


@pytest.mark.parametrize("batch_size", [7, 400])
def test_evaluation_sees_each_row_once_in_the_order_it_says(batch_size):
    rows = np.arange(5, 105)
    dataset = evaluation_dataset(Numbers(), np.arange(333), rows, batch_size=batch_size)
    seen = np.concatenate([y.numpy() for _, y in dataset])
    assert np.array_equal(seen, rows[evaluation_order(Numbers(), rows)])
    assert dataset.cardinality() == -(-100 // batch_size)


@pytest.mark.parametrize("passes", [training_dataset, evaluation_dataset])
def test_the_examples_go_when_their_dataset_goes(passes):
    """TensorFlow keeps the generators of all datasets until the process ends."""
    store = Numbers()
    there = weakref.ref(store)
    given = {"seed": 0} if passes is training_dataset else {}
    dataset = passes(store, np.arange(333), np.arange(333), batch_size=6, **given).take(5)
    del store
    assert len(list(dataset)) == len(list(dataset)) == 5
    assert there()
    del dataset
    for _ in range(600):  # TensorFlow ends what it had begun in its own time
        gc.collect()
        if not there():
            return
        time.sleep(0.1)
    raise AssertionError


def test_what_is_wrong_with_a_row_is_told_as_it_is():
    class Gone:
        lengths = np.ones(4, "int64")

        def batch(self, rows):
            if 2 in rows:
                raise UserError('"a.jpg": missing picture.')
            return np.zeros((len(rows), 2), "float32")

    rows = evaluation_dataset(Gone(), np.zeros(4, "int8"), np.arange(4), batch_size=1)
    with pytest.raises(UserError, match=r'"a\.jpg": missing picture'), told():
        list(rows)
    with pytest.raises(tf.errors.InvalidArgumentError), told():  # another's error stays
        tf.debugging.assert_equal(1, 2)
