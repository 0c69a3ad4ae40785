import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_finetune.data.splits import assign, nested_order, strata


def _keys(count, seed=0):
    return np.random.default_rng(seed).integers(2**63, size=count, dtype=np.uint64)


def _assign(labels, cluster=None, fractions=(0.1, 0.1), seed=0):
    cluster = np.arange(len(labels)) if cluster is None else cluster
    return assign(strata(labels), cluster, _keys(len(labels)), fractions, seed)


@st.composite
def clustered(draw):
    count = draw(st.integers(1, 300))
    classes = draw(st.integers(1, 6))
    largest = draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    labels = rng.integers(classes, size=count).astype(np.int32)
    cluster = rng.integers(max(1, count // largest), size=count) if largest > 1 else None
    fractions = draw(st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)))
    return labels, cluster, fractions


@settings(deadline=None, max_examples=60)
@given(clustered(), st.integers(0, 5))
def test_a_split_is_complete_whole_deterministic_and_near_its_fractions(data, seed):
    labels, cluster, fractions = data
    sides = _assign(labels, cluster, fractions, seed)
    assert sides.shape == labels.shape
    assert set(sides.tolist()) <= {0, 1, 2}
    assert (sides == _assign(labels, cluster, fractions, seed)).all()
    own = np.arange(len(labels)) if cluster is None else cluster
    assert len(set(zip(own.tolist(), sides.tolist(), strict=True))) == len(set(own.tolist()))
    largest = np.bincount(own).max()
    classes = len(set(labels.tolist()))
    shares = (1 - sum(fractions), *fractions)
    for side, share in enumerate(shares):
        # A class may hold back one row for a split whose share of it is half a row or more.
        assert abs((sides == side).sum() - share * len(labels)) <= 2 * largest + classes
        if share == 0:
            assert not (sides == side).any()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 50), st.integers(2, 20), st.floats(0.05, 0.4))
def test_each_class_has_its_share_of_each_split(seed, classes, fraction):
    labels = np.random.default_rng(seed).integers(classes, size=400).astype(np.int32)
    sides = _assign(labels, fractions=(fraction, fraction), seed=seed)
    for name in np.unique(labels):
        rows = labels == name
        for side in (1, 2):
            assert abs((sides[rows] == side).sum() - fraction * rows.sum()) <= 2


@pytest.mark.parametrize("count", [100, 1000, 8530])
def test_fractions_of_single_rows_are_hit_to_a_row(count):
    sides = _assign(np.arange(count, dtype=np.int32) % 2)
    assert np.abs(np.bincount(sides) - count * np.array([0.8, 0.1, 0.1])).max() <= 1


def test_many_small_classes_neither_starve_nor_swell_a_split():
    labels = np.repeat(np.arange(100, dtype=np.int32), 14)
    sides = _assign(labels)
    assert np.abs(np.bincount(sides) - 1400 * np.array([0.8, 0.1, 0.1])).max() <= 2
    assert all((sides[labels == name] == side).any() for name in range(100) for side in range(3))


def test_a_class_with_half_a_row_for_a_split_gets_one():
    labels = np.array([0] * 95 + [1] * 5, np.int32)
    assert sorted(_assign(labels)[labels == 1].tolist()) == [0, 0, 0, 1, 2]


def test_the_order_of_rows_does_not_matter():
    labels = np.random.default_rng(1).integers(3, size=200).astype(np.int32)
    cluster = np.arange(200) // 2
    keys, shuffled = _keys(200), np.random.default_rng(2).permutation(200)
    sides = assign(labels, cluster, keys, (0.2, 0.2), 0)
    again = assign(labels[shuffled], cluster[shuffled], keys[shuffled], (0.2, 0.2), 0)
    assert (again == sides[shuffled]).all()


def test_another_seed_gives_another_split():
    labels = np.zeros(200, np.int32)
    assert (_assign(labels, seed=0) != _assign(labels, seed=1)).any()


def test_a_cluster_larger_than_the_test_split_trains():
    cluster = np.array([0] * 60 + list(range(1, 41)))
    sides = _assign(np.zeros(100, np.int32), cluster)
    assert (sides[:60] == 0).all()
    assert np.bincount(sides).tolist() == [80, 10, 10]


def test_nothing_to_split():
    assert _assign(np.empty(0, np.int32)).shape == (0,)


def test_strata_of_targets_are_tenths():
    targets = np.random.default_rng(0).permutation(1000).astype(np.float32)
    assert np.bincount(strata(targets)).tolist() == [100] * 10
    assert set(strata(np.ones(50, np.float32)).tolist()) == {strata(np.ones(50, np.float32))[0]}
    sides = _assign(targets)
    assert abs(targets[sides == 2].mean() - targets.mean()) < 30


def test_the_stratum_of_several_labels_is_the_rarest():
    labels = np.array([[1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1]], np.float32)
    assert strata(labels).tolist() == [2, 1, 0, 3, 2]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 300), st.integers(1, 6), st.integers(0, 100))
def test_every_beginning_of_the_nested_order_is_stratified(count, classes, seed):
    labels = np.random.default_rng(seed).integers(classes, size=count)
    order = nested_order(labels, _keys(count), seed)
    assert sorted(order.tolist()) == list(range(count))
    present, totals = np.unique(labels, return_counts=True)
    assert set(labels[order[: len(present)]].tolist()) == set(present.tolist())
    for limit in (count // 3, count // 2):
        for name, total in zip(present, totals, strict=True):
            got = (labels[order[:limit]] == name).sum()
            assert abs(got - limit * total / count) <= 1 + len(present)


def test_the_nested_order_is_a_function_of_content_and_seed():
    labels, keys = np.arange(50) % 3, _keys(50)
    shuffled = np.random.default_rng(2).permutation(50)
    order = nested_order(labels, keys, 0)
    assert (shuffled[nested_order(labels[shuffled], keys[shuffled], 0)] == order).all()
    assert (nested_order(labels, keys, 1) != order).any()
