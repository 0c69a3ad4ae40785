import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_backbone, tiny_preprocessor, tiny_task, tiny_texts
from tf_finetune import Phase, UserError, fit_phases
from tf_finetune.data.text import encode, pad
from tf_finetune.fit.mixup import Mixture, draw, place_of
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
    y = {"a": tf.constant([7, 8, 9]), "b": tf.constant([[1], [2], [3]])}
    _, (_, others, weights) = mixture.targets(y, [None, tf.constant([1.0, 2.0, 3.0])])
    assert others["b"].numpy().tolist() == [[2], [3], [1]]
    assert weights[0] is None
    assert weights[1].numpy().tolist() == [2.0, 3.0, 1.0]


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


IMAGES = np.random.default_rng(0).normal(size=(24, 4, 4, 1)).astype("float32")
CLASSES = (IMAGES.mean((1, 2, 3)) > 0).astype("int32")
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def of_images():
    layers = [keras.layers.Conv2D(4, 3, activation="relu", name="block_0"), keras.layers.Flatten()]
    return keras.Sequential([keras.Input((4, 4, 1)), *layers, keras.layers.Dense(2, name="logits")])


def of_tokens(dtype="int32", whole=False):
    """Of numbers of tokens, whatever their dtype; `whole` has an output for each token."""
    inputs = keras.Input((5,), dtype=dtype)
    x = keras.layers.Embedding(9, 4)(inputs)
    x = x if whole else keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dense(8, "relu", name="block_0")(x)
    x = keras.layers.Dense(2, name="logits")(x)
    return keras.Model(inputs, keras.layers.Activation("linear")(x))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(4, name="block_0")
        self.logits = keras.layers.Dense(2, name="logits")

    def call(self, x):  # without `training`
        return self.logits(self.first(x))


def phased(model, x, y, *, seed=0, mixup=0.4, **options):
    keras.utils.set_random_seed(seed)
    phase = Phase(epochs=3, learning_rate=3e-2, schedule="constant")
    options = {"loss": CROSS_ENTROPY, "batch_size": 8, "spike_guard": 0} | options
    result = fit_phases(model, (x, y), None, [phase], mixup=mixup, say=lambda _: None, **options)
    return [row["loss"] for row in result.history]


@pytest.mark.parametrize("build", [of_images, Subclassed], ids=["graph", "subclassed"])
def test_floating_inputs_are_mixed_themselves(build):
    model, x = build(), IMAGES if build is of_images else IMAGES.reshape(24, 16)
    model(x[:1])
    assert place_of(model, x) == (None, None)
    mixture = draw(0.8, tf.constant(24), keras.random.SeedGenerator(3))
    share, order = mixture.share.numpy(), mixture.order.numpy()
    with tf.GradientTape() as tape:
        outputs = model(tf.constant(share * x + (1 - share) * x[order]))
        expected = share * CROSS_ENTROPY(CLASSES, outputs)
        expected += (1 - share) * CROSS_ENTROPY(CLASSES[order], outputs)
    gradients = tape.gradient(expected, model.trainable_weights)
    after = [
        v.numpy() - 0.1 * g.numpy() for v, g in zip(model.trainable_weights, gradients, strict=True)
    ]
    model.compile(OPTIMIZER(0.1), CROSS_ENTROPY)
    with training_by(model, Step(mixup=0.8, seed=3)):
        assert model.train_on_batch(x, CLASSES) == pytest.approx(float(expected), rel=1e-5)
    for variable, value in zip(model.trainable_weights, after, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, 1e-6, 1e-6, err_msg=variable.path)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_of_tokens_what_goes_into_the_last_layer_is_mixed(dtype):
    model, x = of_tokens(dtype), np.arange(40).reshape(8, 5) % 9
    body, head = place_of(model, x.astype(dtype))
    np.testing.assert_array_equal(head(body(x)), model(x))
    assert {id(v) for v in [*body.weights, *head.weights]} == {id(v) for v in model.weights}
    # The layer has no weights; what is in front of a plain Dense mixes alike.
    assert body.output is model.get_layer("logits").output


def test_a_keras_hub_task_and_others_of_a_users_own():
    keras.utils.set_random_seed(0)  # of some first weights a few epochs bring the loss up
    texts, labels = tiny_texts(24)
    task = keras_hub.models.BertTextClassifier(
        tiny_backbone(num_layers=2), num_classes=2, preprocessor=tiny_preprocessor()
    )
    losses = phased(task, np.array(texts), labels)
    assert losses[-1] < losses[0]
    assert np.shape(task.predict(texts, verbose=0)) == (24, 2)


def test_phases_follow_the_global_seed():
    def losses(**options):
        keras.utils.set_random_seed(7)
        return phased(of_images(), IMAGES, CLASSES, **options)

    assert losses(seed=1) == losses(seed=1)
    assert losses(seed=1) != losses(seed=2)
    assert losses(mixup=0.0)[-1] < losses()[-1]  # targets in between are harder to meet


def test_several_outputs_of_floating_inputs():
    inputs = keras.Input((16,))
    x = keras.layers.Dense(4, name="block_0")(inputs)
    outputs = {"a": keras.layers.Dense(2)(x), "b": keras.layers.Dense(1)(x)}
    model, flat = keras.Model(inputs, outputs), IMAGES.reshape(24, 16)
    y = {"a": CLASSES, "b": flat[:, :1]}
    losses = phased(model, flat, y, loss={"a": CROSS_ENTROPY, "b": "mse"}, micro_batch=3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("build", "x", "options", "message"),
    [
        (lambda: of_tokens(whole=True), np.zeros((24, 5), "int32"), {}, "or a vector for each"),
        (Subclassed, np.zeros((24, 5), "int32"), {}, "and has none that Keras can see"),
        (of_images, IMAGES, {"batch_size": 1}, "leaves no other example to mix with"),
        (of_images, IMAGES, {"micro_batch": 1}, "leaves no other example to mix with"),
        (of_images, IMAGES, {"mixup": -1.0}, "mixup is -1.0; it must be at least 0"),
    ],
)
def test_mistakes(build, x, options, message):
    model = build()
    model(x[:1])
    y = np.zeros(model(x).shape[:-1], "int32")
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        phased(model, x, y, **options)
    assert same(before, model.get_weights())
