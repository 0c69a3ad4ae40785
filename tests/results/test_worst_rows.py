import numpy as np
import pytest

from tf_finetune.results.mistakes import nearest, worst


def test_the_surest_mistakes_of_each_task():
    outputs = np.array([[0.6, 0.4], [0.05, 0.95], [0.1, 0.9], [0.8, 0.2]])
    assert worst("classification", outputs, np.array([1, 0, 1, 0]), 5) == [(1, 0.95), (0, 0.6)]
    assert worst("classification", outputs, np.array([1, 0, 1, 0]), 1) == [(1, 0.95)]
    found = worst("multi_label", outputs, np.array([[1, 0], [0, 1], [0, 0], [0, 1]]), 5)
    assert found == [(2, 0.9), (3, 0.8)]
    found = worst("regression", np.array([[1.0], [5.0]]), np.array([1.0, 2.0]), 5)
    assert found == [(1, 3.0)]
    assert worst("classification", outputs, np.array([0, 1, 1, 0]), 5) == []


def test_the_nearest_point_the_same_way():
    features = np.array([[1.0, 0.0], [10.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    places, alike = nearest(np.array([[5.0, 0.0], [0.0, 1.0]]), features, 2)
    assert places.tolist() == [[0, 1], [2, 1]]
    assert alike[0].tolist() == pytest.approx([1.0, 10 / np.hypot(10, 1)])
    assert nearest(features[:1], features[:2], 5)[0].shape == (1, 2)
