import random
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from tf_finetune.data import duplicates
from tf_finetune.data.duplicates import (
    clusters,
    find_alike,
    firsts,
    near_duplicates,
    normalise,
    scan,
    shingles,
)

LONG = [f"word{i}" for i in range(14)]


def _table(texts, **columns):
    return pa.table({"text": texts, **columns})


def _near(texts, threshold=0.8, **columns):
    return near_duplicates(_table(texts, **columns), np.arange(len(texts)), threshold).tolist()


def test_normalise_folds_form_case_and_space():
    assert normalise(" \ufb01ne\u00a0 FILM\n") == "fine film"
    assert normalise("Cafe\u0301") == normalise("CAFÉ")


def test_scan_gives_equal_keys_to_equal_texts_and_the_lengths():
    found = scan(_table(["Good film", "good  FILM", "bad film"]))
    assert found.keys[0] == found.keys[1] != found.keys[2]
    assert found.sizes["characters"].tolist() == [9, 10, 8]
    assert found.sizes["words"].tolist() == [2, 2, 2]


def test_scan_digest_tells_texts_apart_that_differ_only_in_form():
    assert scan(_table(["a b"])).digest != scan(_table(["a  b"])).digest
    assert scan(_table(["ab", "c"])).digest != scan(_table(["a", "bc"])).digest


def test_scan_of_pairs_uses_both_texts():
    keys = scan(_table(["a", "a", "A"], text_pair=["b", "c", "B"])).keys
    assert keys[0] == keys[2] != keys[1]


def test_scan_reads_more_rows_than_a_batch(monkeypatch):
    monkeypatch.setattr(duplicates, "_BATCH", 7)
    texts = [f"text {i % 30}" for i in range(100)]
    keys = scan(_table(texts)).keys
    assert firsts(keys).tolist() == [i % 30 for i in range(100)]


def test_near_duplicates_are_found_and_verified():
    long = " ".join(LONG)
    texts = [long, "quite another text, of other words", long + " fifteen", long.upper() + "!"]
    assert _near(texts) == [[0, 2], [0, 3], [2, 3]]
    other_end = " ".join([*LONG[:-4], "w", "x", "y", "z"])
    assert _near([long, other_end]) == []
    assert _near([long, other_end], threshold=0.4) == [[0, 1]]


def test_pairs_are_near_duplicates_only_if_both_texts_are():
    long = " ".join(LONG)
    texts, pairs = [long] * 3, ["he sleeps now", "he is awake", "He sleeps, now"]
    assert _near(texts, text_pair=pairs) == [[0, 2]]


def test_short_wordless_and_unspaced_texts():
    assert _near(["good film", "film good", "good"]) == [[0, 1]]
    assert _near(["👍", "👎", "!!", "??"]) == []
    assert len(shingles("这部电影很好看")) == 5


def test_many_copies_of_a_template_form_one_cluster():
    texts = [" ".join([*LONG * 3, str(i)]) for i in range(300)]
    found = near_duplicates(_table([f"{t} {i}" for i, t in enumerate(texts)]), np.arange(300), 0.6)
    assert set(clusters(300, found).tolist()) == {0}
    assert len(found) < 300 * 128


def test_recall_is_as_stated_against_all_pairs():
    draw = random.Random(0)
    words = [f"w{i}" for i in range(500)]
    texts = []
    for _ in range(60):
        base = draw.choices(words, k=60)
        copy = list(base)
        for _ in range(draw.randrange(4)):
            copy[draw.randrange(60)] = "changed"
        texts += [" ".join(base), " ".join([*copy, "end"])]
    sets = [shingles(text) for text in texts]
    true = {
        (a, b)
        for a in range(len(texts))
        for b in range(a + 1, len(texts))
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= 0.8
    }
    found = {tuple(pair) for pair in _near(texts)}
    assert found <= true
    assert len(true) > 20
    assert len(found) >= 0.95 * len(true)


def test_clusters_join_transitively():
    assert clusters(6, np.array([(4, 3), (1, 4), (5, 2)])).tolist() == [0, 1, 2, 1, 1, 2]


def test_alike_joins_copies_near_copies_and_groups():
    long = " ".join(LONG)
    texts = [long, long + " more", LONG[0], LONG[0].upper(), "other"]
    table = _table(texts, group=["a", "b", "b", "c", "d"])
    alike = find_alike(table, scan(table), 0.8)
    assert alike.near.tolist() == [[0, 1]]
    assert alike.content.tolist() == [0, 0, 2, 2, 4]
    assert alike.groups.tolist() == [0, 1, 1, 3, 4]
    assert alike.together.tolist() == [0, 0, 0, 0, 4]
    assert alike.note == ""


@pytest.mark.parametrize(("threshold", "most"), [(0, 10), (0.8, 2)])
def test_a_search_that_is_not_made_is_said(monkeypatch, threshold, most):
    monkeypatch.setattr(duplicates, "_MOST_SEARCHED", most)
    table = _table(["film good", "good film", "other"])
    alike = find_alike(table, scan(table), threshold)
    assert len(alike.near) == 0
    assert "not looked for" in alike.note


def test_many_groups_take_no_memory_of_their_own():
    count = 300_000
    rows = np.arange(count)
    pairs = np.stack([rows - rows % 3, rows], axis=1)[rows % 3 > 0]
    tracemalloc.start()
    found = clusters(count, pairs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, rows - rows % 3)
    assert peak < 100 * count
