import numpy as np

from tf_finetune.results.selective import selective


def test_the_surest_rows_come_first():
    sure = np.linspace(0.55, 0.99, 100)
    outputs = np.stack([sure, 1 - sure], axis=1)
    labels = np.where(np.arange(100) < 40, 1, 0)  # wrong where it is least sure
    found = {row["coverage"]: row for row in selective("classification", outputs, labels)}
    assert (found[1.0]["rows"], found[1.0]["accuracy"]) == (100, 0.6)
    assert found[0.8]["accuracy"] == 60 / 80
    assert found[0.6]["accuracy"] == found[0.1]["accuracy"] == 1.0
    assert found[0.6]["threshold"] == sure[40]
    low, high = found[0.8]["interval"]
    assert low < 0.75 < high


def test_a_row_is_as_sure_as_its_least_sure_label():
    outputs = np.array([[0.99, 0.51], [0.9, 0.1]])
    found = selective("multi_label", outputs, np.array([[1, 0], [1, 0]]))
    assert [(row["rows"], row["accuracy"]) for row in found if row["coverage"] in (1.0, 0.5)] == [
        (2, 0.5),
        (1, 1.0),
    ]
