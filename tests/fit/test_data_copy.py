"""Reading a copy leaves the next epochs of the original as they would have been."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.fit.data_copy import batches_of, calls_python, copied


def shuffled(data, **options):
    return data.shuffle(8, **options)


def augmented(data):
    flip = keras.layers.RandomFlip(seed=1)
    image = tf.reshape(tf.range(12.0), (1, 2, 2, 3))
    return data.map(lambda i: flip(image, training=True)[0, 0, 0, 0] + tf.cast(i, tf.float32))


def drawn(data):
    generator = tf.random.Generator.from_seed(3)
    return data.map(lambda i: generator.uniform([], 0, 1000, tf.int64))


def looked_up(data):
    layer = keras.layers.IntegerLookup(vocabulary=list(range(8)))
    return data.map(layer).shuffle(8)


def from_python(data):
    signature = tf.TensorSpec([], tf.int64)
    return tf.data.Dataset.from_generator(lambda: iter(range(5)), output_signature=signature)


MAKE = {
    "shuffled": shuffled,
    "with a seed": lambda d: shuffled(d, seed=1),
    "twice": lambda d: d.shuffle(8).map(lambda i: i * 2).shuffle(3).repeat(2),
    "in parallel": lambda d: d.map(lambda i: i, num_parallel_calls=2).shuffle(8).prefetch(2),
    "cached after noise": lambda d: drawn(d).cache(),
    "augmented by Keras": augmented,
    "drawn": drawn,
    "looked up": looked_up,
    "random": lambda d: tf.data.Dataset.random(rerandomize_each_iteration=True).take(3),
    "generator": lambda d: from_python(d).shuffle(5),
}


def epochs(data, count):
    return [[value.item() for value in data.as_numpy_iterator()] for _ in range(count)]


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_the_original_goes_on_as_if_nothing_had_been(make):
    def new():
        tf.random.set_seed(5)
        return make(tf.data.Dataset.range(8))

    expected = epochs(new(), 4)
    data = new()
    found = epochs(data, 1)
    copy = copied(data)
    assert copy.element_spec == data.element_spec
    read = epochs(copy, 2)
    assert len(read[0]) == len(expected[0])
    partly = iter(copied(data))
    next(partly)
    del partly
    assert found + epochs(data, 3) == expected


def test_a_cache_on_disk_is_neither_read_nor_written(tmp_path):
    data = tf.data.Dataset.range(8).cache(str(tmp_path / "cache")).shuffle(8)
    assert sorted(epochs(copied(data), 1)[0]) == list(range(8))
    assert list(tmp_path.iterdir()) == []
    epochs(data, 1)
    assert list(tmp_path.iterdir()) != []


def test_what_cannot_be_copied_is_refused(tmp_path):
    data = tf.data.Dataset.range(8).snapshot(str(tmp_path))
    with pytest.raises(UserError, match=r"train goes through SnapshotDataset.*without it"):
        copied(data)

    class Locked(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.lines = open(__file__)  # noqa: SIM115

    with pytest.raises(UserError, match="is a Locked that cannot be copied"):
        copied(Locked())


def test_python_code_is_told_of():
    data = tf.data.Dataset.range(3)
    assert calls_python(from_python(data))
    assert calls_python(data.map(lambda i: tf.numpy_function(lambda j: j, [i], tf.int64)))
    assert not calls_python(data.shuffle(3))
    assert not calls_python((np.zeros(3), np.zeros(3)))


class Drawing(keras.utils.PyDataset):
    """Its batches depend on how often it was read."""

    def __init__(self):
        super().__init__()
        self.random = np.random.default_rng(0)
        self.table = np.arange(2**18, dtype="float64")  # large enough to be shared

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return self.table[i : i + 1] + self.random.normal(size=1), np.zeros(1)


def test_a_py_dataset_keeps_its_own_random_state():
    expected, data = Drawing(), Drawing()
    read = list(itertools.islice(batches_of(data, 1), 7))
    assert len(read) == 7
    assert copied(data).table is data.table
    np.testing.assert_array_equal(data[1][0], expected[1][0])


def test_batches_without_end_of_every_kind():
    x, y = np.arange(10.0), np.arange(10)
    for data in ((x, y), tf.data.Dataset.from_tensor_slices((x, y)).batch(4)):
        read = list(itertools.islice(batches_of(data, 4), 6))
        assert [len(batch[0]) for batch in read] == [4, 4, 2, 4, 4, 2]
        assert sorted(np.concatenate([batch[0] for batch in read[:3]])) == list(x)
        assert all(batch[2] is None for batch in read)
        np.testing.assert_array_equal(read[0][0], read[0][1])
    for data, message in (
        ("text", "train is a str"),
        (tf.data.Dataset.range(0), "train is empty"),
    ):
        with pytest.raises(UserError, match=message):
            next(batches_of(data, 4))
