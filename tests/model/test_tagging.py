"""The loss and the metric of tagged words."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune.data.tags import tag_names
from tf_finetune.model import heads
from tf_finetune.model.tagging import SpanF1, TagScore, WordCrossentropy

NAMES = tag_names(("A", "B"))


def batch(rows=5, length=9, seed=0):
    """Labels with gaps where no word begins, and logits."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(NAMES), (rows, length)).astype("int32")
    labels[generator.random((rows, length)) < 0.4] = -1
    return labels, generator.normal(size=(rows, length, len(NAMES))).astype("float32")


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_words_of_rows_of_mean_length(smoothing):
    labels, logits = batch()
    words = (labels >= 0).sum(axis=1).mean()
    found = float(WordCrossentropy(words, smoothing)(labels, logits))
    one_hot = np.eye(len(NAMES))[labels[labels >= 0]]
    expected = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    assert found == pytest.approx(float(expected(one_hot, logits[labels >= 0])), rel=1e-5)


def test_pieces_that_begin_no_word_do_not_count():
    labels, logits = batch()
    changed = logits.copy()
    changed[labels < 0] += 100
    loss = WordCrossentropy()
    assert float(loss(labels, logits)) == float(loss(labels, changed))
    with tf.GradientTape() as tape:
        given = tf.constant(logits)
        tape.watch(given)
        value = loss(labels, given)
    gradient = tape.gradient(value, given).numpy()
    assert not gradient[labels < 0].any()
    assert gradient[labels >= 0].any()


def test_padding_does_not_matter():
    labels, logits = batch()
    wide = np.pad(labels, [(0, 0), (0, 4)], constant_values=-1)
    padded = np.pad(logits, [(0, 0), (0, 4), (0, 0)], constant_values=3.0)
    loss = WordCrossentropy(2.0)
    assert float(loss(wide, padded)) == pytest.approx(float(loss(labels, logits)), rel=1e-6)


def test_the_metric_is_seqevals_f1_over_several_batches():
    from seqeval.metrics import f1_score

    metric, truth, chosen = SpanF1(), [], []
    update = tf.function(metric.update_state, reduce_retracing=True)
    for seed in range(12):
        labels, logits = batch(rows=4, length=5 + seed, seed=seed)
        # Often the truth, or hardly anything would be right.
        right = np.random.default_rng(seed).random(labels.shape) < 0.6
        logits += 6 * right[..., None] * np.eye(len(NAMES))[np.maximum(labels, 0)]
        update(labels, logits)
        for row, output in zip(labels, logits, strict=True):
            truth.append([NAMES[code] for code in row[row >= 0]])
            chosen.append([NAMES[code] for code in output.argmax(-1)[row >= 0]])
    assert 0.2 < f1_score(truth, chosen) < 0.9
    assert float(metric.result()) == pytest.approx(f1_score(truth, chosen), rel=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_the_score_is_its_mean_with_the_accuracy_of_words():
    labels, logits = batch()
    score, f1 = TagScore(), SpanF1()
    for metric in (score, f1):
        metric.update_state(labels, logits)
    right = (logits.argmax(-1) == labels)[labels >= 0].mean()
    assert float(score.result()) == pytest.approx((float(f1.result()) + right) / 2, rel=1e-6)
    # What gives O to every word has some, and more than what is right by chance.
    score.reset_state()
    outside = np.zeros_like(logits)
    outside[..., 0] = 1
    score.update_state(np.zeros_like(labels), outside)
    assert float(score.result()) == 0.5


def test_they_are_those_of_the_task():
    assert isinstance(heads.loss("token_classification", 0.1, 3.0), WordCrossentropy)
    assert heads.monitor("token_classification") == ("val_score", "max")
    assert [metric.name for metric in heads.metrics("token_classification")] == ["score", "f1"]
    again = keras.losses.deserialize(keras.losses.serialize(WordCrossentropy(3.0, 0.1)))
    assert (again.words, again.label_smoothing) == (3.0, 0.1)
