import numpy as np

from tf_finetune.results.label_audit import audit_labels, out_of_sample


def clouds(n=300, k=3, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % k
    return random.normal(size=(n, 12)) + 4 * np.eye(12)[labels], labels


def test_flipped_labels_come_first():
    features, labels = clouds()
    flipped = np.random.default_rng(1).permutation(len(labels))[:15]
    given = labels.copy()
    given[flipped] = (given[flipped] + 1) % 3
    audit = audit_labels(features, given)
    assert sorted(audit.order.tolist()) == list(range(len(labels)))
    assert set(audit.order[:15]) == set(flipped)
    suspected = set(np.flatnonzero(audit.suspected))
    assert len(suspected & set(flipped)) >= 10
    assert len(suspected - set(flipped)) <= 2
    np.testing.assert_array_equal(audit.likely[flipped], labels[flipped])
    assert 0.9 < audit.accuracy <= 0.95  # as labelled: the flipped are wrong
    assert np.all(np.diff(audit.quality[audit.order]) >= 0)


def test_what_the_tuned_model_knows_changes_the_order_but_not_who_is_suspected():
    features, labels = clouds(k=2)
    given = labels.copy()
    given[:10] = 1 - given[:10]
    features[:10] = np.random.default_rng(4).normal(size=(10, 12))  # nothing shows it
    sure = np.where(labels == given, 3.0, -1.0) + np.random.default_rng(5).normal(size=300)
    tuned = np.full((300, 2), 0.5)
    tuned[np.arange(300), given] = 1 / (1 + np.exp(-sure))
    tuned[np.arange(300), 1 - given] = 1 - tuned[np.arange(300), given]
    alone, both = audit_labels(features, given), audit_labels(features, given, tuned=tuned)
    assert len(set(both.order[:15]) & set(range(10))) >= 9
    assert len(set(alone.order[:15]) & set(range(10))) < 9
    np.testing.assert_array_equal(alone.suspected, both.suspected)
    # However sure it is of everything, as where it has learnt all labels by heart.
    surer = tuned**3 / (tuned**3).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(audit_labels(features, given, tuned=surer).order, both.order)


def test_no_row_is_judged_by_a_probe_that_saw_it():
    features, _ = clouds()
    labels = np.random.default_rng(2).integers(0, 2, len(features))
    wide = np.random.default_rng(3).normal(size=(len(features), 400))
    shares = out_of_sample(wide, labels, folds=5, seed=0)
    # A probe that had seen them would have all of them right.
    assert 0.4 < np.mean(shares.argmax(axis=1) == labels) < 0.6


def test_classes_that_do_not_occur_keep_their_numbers():
    features, labels = clouds(k=2)
    audit = audit_labels(features, labels * 5 + 2)
    assert set(audit.likely) == {2, 7}


def test_a_class_of_one_row_cannot_be_audited():
    features, labels = clouds()
    labels[0] = 9
    assert audit_labels(features, labels) is None
    assert audit_labels(features, np.zeros(len(labels), int)) is None
