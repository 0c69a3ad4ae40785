import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.errors import UserError
from tf_finetune.fit.micro_batch import in_parts


@pytest.mark.parametrize("eager", [True, False])
def test_sums_are_added_and_rows_joined(eager):
    table = tf.Variable(np.arange(12.0, dtype="float32").reshape(6, 2))
    sizes = []

    def work(part, share):
        ids, (scale, nothing) = part
        assert nothing is None
        sizes.append(ids.shape[0])
        with tf.GradientTape() as tape:
            rows = tf.gather(table, ids) * scale[:, None]
            total = tf.reduce_sum(rows)
        return [share, None, tape.gradient(total, table)], {"rows": rows, "sums": scale * 2}

    def whole():
        ids, scale = tf.constant([0, 5, 5, 1, 0]), tf.range(5, dtype=tf.float32)
        (share, none, slices), outputs = in_parts(work, (ids, (scale, None)), 2)
        assert none is None
        return share, slices, outputs

    share, slices, outputs = (whole if eager else tf.function(whole))()
    assert sizes == [None]  # traced once, also for the last part of one
    assert float(share) == pytest.approx(1.0)
    np.testing.assert_array_equal(slices.indices, [0, 5, 5, 1, 0])
    np.testing.assert_array_equal(slices.values[:, 0], range(5))
    assert slices.dense_shape.numpy().tolist() == [6, 2]
    expected = table.numpy()[[0, 5, 5, 1, 0]] * np.arange(5)[:, None]
    np.testing.assert_array_equal(outputs["rows"], expected)
    np.testing.assert_array_equal(outputs["sums"], np.arange(5) * 2)


def test_each_part_draws_noise_of_its_own_and_in_order():
    generator = keras.random.SeedGenerator(1)

    def draw(x):
        return keras.random.uniform(tf.shape(x), seed=generator)

    _, drawn = tf.function(lambda x: in_parts(lambda x, share: ([], draw(x)), x, 2))(tf.zeros(5))
    generator = keras.random.SeedGenerator(1)
    expected = [draw(tf.zeros(count)) for count in (2, 2, 1)]
    np.testing.assert_array_equal(drawn, np.concatenate(expected))
    assert len(np.unique(drawn)) == 5


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match=r"micro_batch is 2, but the data hold a RaggedTensor"):
        in_parts(lambda x, share: ([], x), tf.ragged.constant([[1], [2, 3]]), 2)
