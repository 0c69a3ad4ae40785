import keras
import numpy as np
import pytest

from tf_finetune import Phase, UserError, fit_phases
from tf_finetune.data.pipeline import plan_epoch, training_dataset
from tf_finetune.data.sampling import balanced_batches, balanced_sample

# 3 rows of the class 0, 40 of 1, 60 of 2, mixed.
CLASSES = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [3, 40, 60]))


def draw(seed):
    return balanced_sample(CLASSES, np.random.default_rng(seed))


def test_classes_come_equally_often_and_rows_of_one_as_equally_as_can_be():
    for seed in range(20):
        drawn = draw(seed)
        assert len(drawn) == 103
        assert sorted(np.bincount(CLASSES[drawn])) == [34, 34, 35]
        times = np.bincount(drawn, minlength=103)
        assert set(times[CLASSES == 0]) <= {11, 12}  # of 3 rows each, 34 or 35 times
        assert set(times[CLASSES > 0]) == {0, 1}


def test_another_epoch_has_other_rows_and_another_class_one_more():
    draws = [draw(seed) for seed in range(20)]
    assert len({tuple(sorted(drawn)) for drawn in draws}) == 20
    assert {int(np.bincount(CLASSES[drawn]).argmax()) for drawn in draws} == {0, 1, 2}
    # Over epochs every row of a frequent class has its turn.
    assert set(np.concatenate(draws)) == set(range(103))


def test_equal_classes_come_once_each_and_a_class_without_rows_has_no_part():
    drawn = balanced_sample(np.array([4, 9, 4, 9]), np.random.default_rng(0))
    assert sorted(drawn) == [0, 1, 2, 3]


def test_a_balanced_plan_follows_from_seed_and_epoch_and_groups_lengths():
    lengths = np.random.default_rng(1).integers(1, 60, size=103)

    def plan(seed, epoch, size=8):
        return plan_epoch(lengths, size, seed, epoch, CLASSES)

    assert [b.tolist() for b in plan(1, 2)] == [b.tolist() for b in plan(1, 2)]
    assert len({tuple(np.concatenate(plan(s, e))) for s in range(3) for e in range(3)}) == 9
    batches = plan(0, 0)
    assert sorted(map(len, batches)) == [7] + [8] * 12
    assert sorted(np.bincount(CLASSES[np.concatenate(batches)])) == [34, 34, 35]
    padded = sum(len(b) * lengths[b].max() for b in batches)
    assert padded < 1.2 * lengths[np.concatenate(batches)].sum()


class Numbers:
    """A store whose inputs are the row numbers themselves."""

    lengths = np.ones(206, "int64")

    def batch(self, rows):
        return rows.astype("float32")


def test_training_batches_are_drawn_from_the_training_rows_alone():
    labels = np.repeat(CLASSES, 2)
    rows = np.arange(0, 206, 2)
    dataset = training_dataset(Numbers(), labels, rows, batch_size=50, seed=0, balanced=True)
    for epoch in range(2):
        batches = [(x.numpy(), y.numpy()) for x, y in dataset.skip(3 * epoch).take(3)]
        seen, given = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        assert set(seen) <= set(rows)
        assert set(rows[CLASSES == 0]) <= set(seen)
        np.testing.assert_array_equal(given, labels[seen.astype(int)])
        assert sorted(np.bincount(given)) == [34, 34, 35]


def test_batches_of_arrays_follow_from_seed_and_epoch():
    x = {"a": np.arange(103), "b": np.arange(206.0).reshape(103, 2)}
    batches = list(balanced_batches(x, CLASSES, batch_size=50, seed=3).take(6))
    assert [len(y) for _, y in batches] == [50, 50, 3] * 2
    for epoch in range(2):
        rows = balanced_sample(CLASSES, np.random.default_rng([3, epoch]))
        part = batches[3 * epoch :][:3]
        np.testing.assert_array_equal(np.concatenate([x["a"] for x, _ in part]), rows)
        np.testing.assert_array_equal(np.concatenate([x["b"] for x, _ in part]), x["b"][rows])
        np.testing.assert_array_equal(np.concatenate([y for _, y in part]), CLASSES[rows])


def test_a_rare_class_is_found_by_phases_on_balanced_batches():
    """Rare rows that overlap with frequent ones: unbalanced training never says rare."""
    generator = np.random.default_rng(0)
    y = np.repeat([0, 1], [285, 15])
    x = (generator.normal(size=(300, 4)) + 1.2 * y[:, None] * [1, 0, 0, 0]).astype("float32")
    recalls = []
    for train in ((x, y), balanced_batches(x, y)):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(4, name="block_0"), keras.layers.Dense(2, name="logits")]
        model = keras.Sequential([keras.Input((4,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        phases = [Phase(train="all", epochs=8, learning_rate=3e-2)]
        options = {"steps_per_epoch": 10, "say": lambda line: None}
        fit_phases(model, train, phases=phases, loss=loss, **options)
        recalls.append(np.mean(np.asarray(model(x)).argmax(1)[y == 1]))
    assert recalls[0] < 0.3 < 0.6 < recalls[1]


@pytest.mark.parametrize(
    ("x", "y", "size", "message"),
    [
        (np.ones((3, 2)), [0.0, 1.0, 0.5], 2, "y is float64 of shape"),
        (np.ones((3, 2)), [[0, 1]] * 3, 2, r"shape \(3, 2\); give the class"),
        ((np.ones((3, 2)), np.ones(4)), [0, 1, 1], 2, "x has 3, 4 rows and y 3"),
        (np.ones((0, 2)), np.zeros(0, int), 2, "x has 0 rows and y 0"),
        (np.ones((3, 2)), [0, 1, 1], 0, "batch_size is 0"),
    ],
)
def test_arrays_that_do_not_fit(x, y, size, message):
    with pytest.raises(UserError, match=message):
        balanced_batches(x, y, batch_size=size)
