import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import Phase, UserError, fit_phases
from tf_finetune.fit.r_drop import Disagreement
from tf_finetune.fit.steps import Step, training_by
from tf_finetune.model.heads import SmoothedCrossentropy

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(12, 3)).astype("float32")
A, B = (RANDOM.normal(size=(12, 4)).astype("float32") for _ in range(2))
CLASSES = RANDOM.integers(0, 4, 12)
WEIGHTS = RANDOM.uniform(0.1, 2.0, 12).astype("float32")


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def kl(p, q):
    return p * np.log(p / q)


def both_ways(p, q):
    return (kl(p, q) + kl(q, p)) / 2


CLASS_KL = both_ways(softmax(A), softmax(B)).sum(-1)
LABEL_KL = (both_ways(sigmoid(A), sigmoid(B)) + both_ways(1 - sigmoid(A), 1 - sigmoid(B))).mean(-1)
SQUARES = ((A - B) ** 2).mean(-1)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), CLASS_KL),
        (keras.losses.CategoricalCrossentropy(from_logits=True), CLASS_KL),
        (SmoothedCrossentropy(0.1), CLASS_KL),
        (keras.losses.BinaryCrossentropy(from_logits=True), LABEL_KL),
        (keras.losses.MeanSquaredError(), SQUARES),
        (keras.losses.Huber(), SQUARES),
    ],
)
def test_disagreement_by_hand(loss, expected):
    found = Disagreement(loss)(A, B, WEIGHTS)
    assert float(found) == pytest.approx((expected * WEIGHTS).mean(), rel=1e-5)
    assert float(Disagreement(loss)(A, A)) == 0


@pytest.mark.parametrize(
    ("loss", "of", "expected"),
    [
        (keras.losses.SparseCategoricalCrossentropy(), softmax, CLASS_KL),
        (keras.losses.BinaryCrossentropy(), sigmoid, LABEL_KL),
    ],
)
def test_disagreement_of_probabilities(loss, of, expected):
    assert float(Disagreement(loss)(of(A), of(B))) == pytest.approx(expected.mean(), rel=1e-4)
    certain = np.eye(4, dtype="float32")
    assert np.isfinite(float(Disagreement(loss)(certain, certain[::-1])))


class Alternating(keras.layers.Layer):
    """Stands in for dropout: scales by 1 and 2 in turn, so that the passes are known."""

    def __init__(self):
        super().__init__()
        self.rate = 0.5
        self.calls = 0

    def call(self, x, training=False):
        self.calls += training
        return x * (1.0 + self.calls % 2) if training else x


def model_of(noise, units=4):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(5, "tanh"), noise, keras.layers.Dense(units, name="logits")]
    return keras.Sequential([keras.Input((3,)), *layers])


@pytest.mark.parametrize("micro_batch", [0, 5])
def test_a_step_equals_one_by_hand(micro_batch):
    model = model_of(Alternating())
    first, _, last = model.layers
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        hidden = first(X)
        outputs = [last(hidden * factor) for factor in (1.0, 2.0)]
        expected = sum(0.5 * loss(CLASSES, each, WEIGHTS) for each in outputs)
        apart = keras.ops.sum(
            (keras.ops.softmax(outputs[0]) - keras.ops.softmax(outputs[1]))
            * (keras.ops.log_softmax(outputs[0]) - keras.ops.log_softmax(outputs[1])),
            axis=-1,
        )
        expected = 3.0 * (expected + 0.7 * keras.ops.mean(apart * WEIGHTS) / 2)
    gradients = tape.gradient(expected, model.trainable_weights)
    after = [v - 0.1 * g for v, g in zip(model.trainable_weights, gradients, strict=True)]
    model.compile(keras.optimizers.SGD(0.1), loss, loss_weights=[3.0])
    with training_by(model, Step(r_drop=0.7, micro_batch=micro_batch)):
        found = model.train_on_batch(X, CLASSES, sample_weight=WEIGHTS)
    assert found == pytest.approx(float(expected), rel=1e-5)
    for variable, value in zip(model.trainable_weights, after, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, atol=1e-6, err_msg=variable.path)


def fit(model, *phases, loss="mse", y=A, **options):
    fit_phases(
        model, (X, y), None, phases, loss=loss, batch_size=4, say=lambda line: None, **options
    )
    return model.get_weights()


def test_it_pulls_two_passes_together():
    """Of a user's own model, with nothing to learn but agreement."""

    def spread(model):
        passes = [np.asarray(model(X, training=True)) for _ in range(40)]
        return np.std(passes, axis=0).mean()

    model = model_of(keras.layers.Dropout(0.5))
    before = spread(model)
    y = np.asarray(model(X))
    fit(model, Phase(epochs=15, learning_rate=3e-2), y=y, r_drop=20.0)
    assert spread(model) < before / 3


def test_phases_without_dropout_go_without_it_and_other_phases_with_it():
    def build():
        keras.utils.set_random_seed(0)
        base = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(5, "tanh"), keras.layers.Dropout(0.5)],
            name="base",
        )
        return keras.Sequential([keras.Input((3,)), base, keras.layers.Dense(4, name="logits")])

    head, everything = Phase(train="head", learning_rate=1e-2), Phase(learning_rate=1e-2)
    with pytest.raises(UserError, match=r"r_drop is 1.0, but there is no dropout in what trains"):
        fit(build(), head, r_drop=1.0)
    with_it, without = fit(build(), head, everything, r_drop=1.0), fit(build(), head, everything)
    assert not np.allclose(with_it[0], without[0], atol=1e-4)


class TwoOutputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.noise, self.a = keras.layers.Dropout(0.5), keras.layers.Dense(4)

    def call(self, x, training=False):
        x = self.a(self.noise(x, training=training))
        return [x, x]


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (lambda: model_of(keras.layers.Dropout(0.0)), {}, "no dropout in what trains"),
        (
            lambda: model_of(keras.layers.Dropout(0.5)),
            {"loss": keras.losses.CosineSimilarity()},
            "r_drop .* the loss cosine_similarity does not tell",
        ),
        (TwoOutputs, {"y": [A, A], "loss": ["mse", "mse"]}, "several outputs or losses"),
        (lambda: model_of(keras.layers.Dropout(0.5)), {"r_drop": -1.0}, "r_drop is -1.0; it must"),
    ],
)
def test_mistakes_are_found_before_anything_trains(build, options, message):
    model = build()
    model(X)
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        fit(model, Phase(), **{"r_drop": 1.0, **options})
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
