import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_task, tiny_texts
from tf_finetune.data.text import encode, pad
from tf_finetune.fit.mixup import Mixture, draw
from tf_finetune.fit.spike_guard import SpikeGuard
from tf_finetune.fit.steps import Step, training_by
from tf_finetune.model import heads

TEXTS, LABELS = tiny_texts(8)
WEIGHTS = np.linspace(0.5, 2.0, 8).astype("float32")
OPTIMIZER = keras.optimizers.SGD


def test_shares_follow_beta_and_orders_are_permutations():
    generator = keras.random.SeedGenerator(0)

    @tf.function
    def draws():
        mixture = draw(0.4, tf.constant(6), generator)
        return mixture.share, mixture.order

    found = [(share.numpy(), order.numpy()) for share, order in (draws() for _ in range(2000))]
    shares = np.array([share for share, _ in found])
    both = np.concatenate([shares, 1 - shares])  # the larger one is the example's own
    assert shares.min() >= 0.5
    # Of Beta(a, a): 1 / (4 (2a + 1)).
    assert both.var() == pytest.approx(1 / (4 * 1.8), rel=0.05)
    assert all(sorted(order) == list(range(6)) for _, order in found)
    assert np.mean([order for _, order in found], axis=0) == pytest.approx([2.5] * 6, abs=0.25)


def test_rows_and_targets_of_a_mixture():
    mixture = Mixture(tf.constant(0.75), tf.constant([1, 2, 0]))
    rows = mixture.rows(tf.constant([[0.0], [4.0], [8.0]], tf.float16))
    np.testing.assert_array_equal(rows, [[1.0], [5.0], [6.0]])
    assert rows.dtype == tf.float16
    (a, y, w), (b, others, weights) = mixture.targets(tf.constant([7, 8, 9]), None)
    assert (float(a), float(b)) == (0.75, 0.25)
    assert (y.numpy().tolist(), others.numpy().tolist()) == ([7, 8, 9], [8, 9, 7])
    assert w is None
    assert weights is None


def targets_of(kind):
    if kind == "classification":
        return LABELS
    if kind == "multi_label":
        return np.stack([LABELS, 1 - LABELS[::-1]], 1).astype("float32")
    return np.linspace(-1, 3, 8).astype("float32")[:, None]


def compiled(kind):
    names = ("value",) if kind == "regression" else ("neg", "pos")
    task = tiny_task(kind, names)
    ids = pad(task.preprocessor, encode(task.preprocessor, TEXTS))
    return task, {name: np.asarray(rows) for name, rows in ids.items()}


@pytest.mark.parametrize("kind", ["classification", "multi_label", "regression"])
@pytest.mark.parametrize("cached", [False, True])
def test_a_step_equals_one_by_hand(kind, cached):
    task, x = compiled(kind)
    model, body = (task.head, None) if cached else (task.network, task.encoder)
    x = task.encoder(x).numpy() if cached else x
    y = targets_of(kind)
    mixture = draw(0.8, tf.constant(8), keras.random.SeedGenerator(3))
    assert float(mixture.share) < 0.95
    share, order = mixture.share.numpy(), mixture.order.numpy()
    with tf.GradientTape() as tape:
        vectors = body(x) if body else tf.constant(x)
        outputs = task.head(share * vectors + (1 - share) * tf.gather(vectors, order))
        loss = heads.loss(kind)
        expected = share * loss(y, outputs, WEIGHTS)
        expected += (1 - share) * loss(y[order], outputs, WEIGHTS[order])
    gradients = tape.gradient(expected, model.trainable_weights)
    after = [
        v.numpy() - 0.1 * tf.convert_to_tensor(g).numpy()
        for v, g in zip(model.trainable_weights, gradients, strict=True)
    ]
    model.compile(OPTIMIZER(0.1), loss)
    with training_by(model, Step(mixup=0.8, body=body, head=task.head, seed=3)):
        found = model.train_on_batch(x, y, sample_weight=WEIGHTS)
    assert found == pytest.approx(float(expected), rel=1e-5)
    for variable, value in zip(model.trainable_weights, after, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, 1e-6, 1e-6, err_msg=variable.path)


def test_for_regression_targets_are_mixed_like_the_inputs():
    """Squared errors of both are the squared error of the mixed target, and a constant."""
    y, outputs = targets_of("regression"), tf.Variable(np.zeros((8, 1), "float32"))
    mixture = draw(0.8, tf.constant(8), keras.random.SeedGenerator(3))
    loss = heads.loss("regression")
    with tf.GradientTape(persistent=True) as tape:
        both = sum(weight * loss(each, outputs) for weight, each, _ in mixture.targets(y, None))
        mixed = loss(mixture.rows(tf.constant(y)), outputs)
    np.testing.assert_allclose(
        tape.gradient(both, outputs), tape.gradient(mixed, outputs), atol=1e-7
    )


def run(seed=0, micro_batch=0, callbacks=()):
    """Trains the head on features."""
    task, x = compiled("classification")
    x, model = task.encoder(x).numpy(), task.head
    model.compile(OPTIMIZER(0.1), heads.loss("classification"))
    before = len(model.variables)
    with training_by(model, Step(mixup=0.5, micro_batch=micro_batch, head=model, seed=seed)):
        # With the state of what is drawn from.
        assert len(model.variables) == before + 1
        model.fit(x, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    assert len(model.variables) == before
    return model.get_weights()


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_seed_decides():
    assert same(run(), run())
    assert not same(run(), run(seed=1))
    assert same(run(micro_batch=2), run(micro_batch=2))


def test_going_back_takes_the_generator_along():
    class Spike(keras.callbacks.Callback):
        """Has the guard think that the last batch of the first epoch went wrong."""

        def on_train_batch_end(self, batch, logs=None):
            state = self.model._seed_generators[-1].state
            seen.append(state.numpy().tolist())
            if len(seen) == 2:
                self.model.metrics[0].total.assign(np.nan)

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            after.append(self.model._seed_generators[-1].state.numpy().tolist())

    seen, after = [], []
    run(callbacks=[Spike(), SpikeGuard(say=lambda line: None), Look()])
    assert seen[1] != seen[0]
    assert after[1] < seen[0]  # as at the beginning of the epoch
