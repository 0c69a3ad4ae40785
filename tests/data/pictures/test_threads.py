import itertools
import threading

import pytest

from tf_finetune.data.pictures.threads import in_order


def test_results_come_in_order_though_they_are_made_in_another():
    second = threading.Event()

    def slow_first(item):
        if item == 0:
            assert second.wait(10)
        if item == 1:
            second.set()
        return item * 2

    assert list(in_order(slow_first, range(5), ahead=2)) == [0, 2, 4, 6, 8]


def test_no_more_than_asked_for_is_made_ahead():
    begun = []

    def note(item):
        begun.append(item)
        return item

    results = in_order(note, itertools.count(), ahead=3)
    assert [next(results) for _ in range(2)] == [0, 1]
    assert len(begun) <= 5
    results.close()
    assert len(begun) <= 5


def test_an_error_comes_where_its_result_would():
    def refuse(item):
        if item == 2:
            raise ValueError("two")
        return item

    results = in_order(refuse, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
