"""Training in parts of a batch, beside plain Keras on the whole."""

import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_backbone, tiny_preprocessor, tiny_texts, two_headed
from tf_finetune import LayerwiseAdamW, Phase, UserError, fit_phases
from tf_finetune.fit.steps import Step, training_by

RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(0, 11, (22, 5))
NUMBERS = RANDOM.normal(size=(22, 3)).astype("float32")
CLASSES = RANDOM.integers(0, 3, 22)
VALUES = RANDOM.normal(size=(22, 2)).astype("float32")
WEIGHTS = RANDOM.uniform(0.1, 2.0, 22).astype("float32")
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def one_headed(*more, units=3):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, "relu"), *more, keras.layers.Dense(units)]
    return keras.Sequential([keras.Input((3,)), *layers])


def assert_same(a, b, atol=1e-6):
    for x, y in zip(a.weights, b.weights, strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), atol=atol, rtol=0, err_msg=x.path)


def trained(model, micro_batch, x, y, **options):
    """Batches of 8, 8 and 6, four times."""
    with training_by(model, Step(micro_batch=micro_batch)):
        fit = model.fit(x, y, batch_size=8, epochs=4, shuffle=False, verbose=0, **options)
    return model, fit.history


OPTIMIZERS = {
    "AdamW, clipped": lambda: LayerwiseAdamW(1e-2, global_clipnorm=0.5, weight_decay=0.1),
    "stock Adam": lambda: keras.optimizers.Adam(1e-2),
    "SGD, clipped": lambda: keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.3),
    "loss scaled": lambda: keras.optimizers.LossScaleOptimizer(
        LayerwiseAdamW(1e-2, clipnorm=0.1), initial_scale=2.0**10
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parts_train_as_the_whole_batch_does(name):
    def run(micro_batch):
        model = two_headed()
        squares = keras.losses.MeanSquaredError(reduction="sum")
        model.compile(
            OPTIMIZERS[name](),
            loss={"a": CROSS_ENTROPY, "b": squares},
            loss_weights={"a": 1.0, "b": 0.3},
            metrics={"a": ["accuracy"], "b": ["mae"]},
            weighted_metrics={"a": ["accuracy"]},
        )
        weights = {"a": WEIGHTS, "b": WEIGHTS[::-1].copy()}
        given = {"i": IDS, "n": NUMBERS}, {"a": CLASSES, "b": VALUES}
        return trained(model, micro_batch, *given, sample_weight=weights)

    whole, history = run(0)
    for micro_batch in (1, 3, 8) if name == "stock Adam" else (3,):
        parts, found = run(micro_batch)
        assert_same(parts, whole)
        assert found.keys() == history.keys()
        for key, values in history.items():
            np.testing.assert_allclose(found[key], values, rtol=1e-6, atol=1e-6, err_msg=key)


def test_class_weights_and_losses_and_metrics_by_name():
    def run(micro_batch):
        model = one_headed()
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return trained(model, micro_batch, NUMBERS, CLASSES, class_weight={0: 0.5, 1: 3.0, 2: 1.0})

    (whole, history), (parts, found) = run(0), run(3)
    assert_same(parts, whole)
    np.testing.assert_allclose(found["loss"], history["loss"], rtol=1e-6)
    assert found["accuracy"] == history["accuracy"]


def test_in_float16_up_to_its_rounding():
    def build():
        model = one_headed()
        for layer in model.layers:
            layer.dtype_policy = keras.DTypePolicy("mixed_float16")
        return model

    def run(micro_batch):
        model = build()
        optimizer = keras.optimizers.SGD(0.1)
        model.compile(keras.optimizers.LossScaleOptimizer(optimizer), CROSS_ENTROPY)
        return trained(model, micro_batch, NUMBERS, CLASSES)[0]

    whole, start = run(0), build()
    assert_same(run(3), whole, atol=1e-3)
    for a, b in zip(whole.weights, start.weights, strict=True):
        assert np.abs(a.numpy() - b.numpy()).max() > 1e-2


def test_it_leaves_nothing_behind(tmp_path):
    plain, model = one_headed(), one_headed()
    for each in (plain, model):
        each.compile("sgd", CROSS_ENTROPY)
    with training_by(model, Step(micro_batch=2)):
        assert "train_step" in vars(model)
        model.save(tmp_path / "within.keras")
        model.fit(NUMBERS, CLASSES, batch_size=8, shuffle=False, verbose=0)
    assert model.train_function is None
    assert model.train_step.__func__ is keras.Model.train_step
    plain.fit(NUMBERS, CLASSES, batch_size=8, shuffle=False, verbose=0)
    assert vars(model).keys() == vars(plain).keys()
    assert_same(model, plain)
    again = keras.saving.load_model(tmp_path / "within.keras")
    assert again.train_step.__func__ is keras.Model.train_step


class OwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


class OwnLoss(keras.Sequential):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


class Penalised(keras.layers.Layer):
    def call(self, x):
        self.add_loss(keras.ops.mean(x))
        return x


def masked():
    layers = [keras.layers.Embedding(11, 4, mask_zero=True), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((3,)), *layers])


def mean_of_all(y_true, y_pred):
    return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y_true, y_pred))


@pytest.mark.parametrize(
    ("build", "loss", "message"),
    [
        (lambda: OwnStep(one_headed().layers), CROSS_ENTROPY, "OwnStep has a train_step"),
        (lambda: OwnLoss(one_headed().layers), CROSS_ENTROPY, "OwnLoss has a compute_loss"),
        (
            lambda: one_headed(keras.layers.BatchNormalization(name="norm")),
            CROSS_ENTROPY,
            "layer norm, a BatchNormalization that trains",
        ),
        (
            lambda: one_headed(Penalised(name="own")),
            CROSS_ENTROPY,
            r"layer own has a loss of its own \(add_loss\)",
        ),
        (masked, CROSS_ENTROPY, "of masked outputs"),
        (one_headed, mean_of_all, 'loss mean_of_all with reduction "sum_over_batch_size"'),
        (one_headed, keras.losses.Dice(), "loss dice with"),
        (one_headed, keras.losses.Circle(), "loss circle with"),
        (
            one_headed,
            keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight"),
            'with reduction "mean_with_sample_weight"',
        ),
    ],
)
def test_what_parts_cannot_be_added_up_for_is_refused(build, loss, message):
    model = build()
    before = model.get_weights()
    y = np.stack([CLASSES] * 3, 1) if build is masked or "Dice" in str(loss) else CLASSES
    model.compile("sgd", loss)
    with (
        pytest.raises(UserError, match=message) as refused,
        training_by(model, Step(micro_batch=2)),
    ):
        model.fit(np.abs(NUMBERS).round(), y, batch_size=8, verbose=0)
    assert "micro_batch" in str(refused.value)
    assert "in user code" not in str(refused.value)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert "train_step" not in vars(model)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(8, "relu", name="block_0")
        self.logits = keras.layers.Dense(3, name="logits")

    def call(self, x):  # without `training`
        return self.logits(self.first(x))


def fit(model, *phases, train=(NUMBERS, CLASSES), **options):
    options = {"loss": CROSS_ENTROPY, "metrics": ["accuracy"], "batch_size": 8} | options
    keras.utils.set_random_seed(5)  # of the order of examples
    return fit_phases(model, train, None, phases, say=lambda line: None, **options)


PHASES = (Phase(train="head", learning_rate=1e-2), Phase(epochs=2, learning_rate=1e-2))


@pytest.mark.parametrize("build", [Subclassed, one_headed])
def test_phases_of_a_users_model(build):
    """Rates, counts of updates and the figures of epochs too."""

    def run(**options):
        keras.utils.set_random_seed(0)
        model = build()
        return model, fit(model, *PHASES, **options).history

    (whole, history), (parts, found) = run(), run(micro_batch=3)
    assert_same(parts, whole)
    assert [row["step"] for row in found] == [3, 3, 6]
    for a, b in zip(found, history, strict=True):
        for name in ("step", "learning_rate", "loss", "accuracy"):
            assert a[name] == pytest.approx(b[name], rel=1e-5), name


def test_a_keras_hub_task_with_frozen_layers():
    texts, labels = tiny_texts(24)

    def run(micro_batch):
        keras.utils.set_random_seed(0)
        task = keras_hub.models.BertTextClassifier(
            tiny_backbone(num_layers=2), num_classes=2, preprocessor=tiny_preprocessor(), dropout=0
        )
        train = (np.array(texts), labels)
        fit(task, Phase(train="last:1", learning_rate=1e-2), train=train, micro_batch=micro_batch)
        return task

    assert_same(run(3), run(0))


def test_frozen_batch_normalization_is_no_hindrance():
    def run(micro_batch):
        model = one_headed(keras.layers.BatchNormalization())
        fit(model, Phase(train="all", learning_rate=1e-2), micro_batch=micro_batch)
        return model

    assert_same(run(3), run(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batch": -1}, "micro_batch is -1; it must be at least 0"),
        ({"micro_batch": 2.0}, "micro_batch is 2.0; it must be a whole number"),
        ({"micro_batch": 9}, "micro_batch is 9, but a batch has 8 examples"),
        (
            {
                "micro_batch": 5,
                "train": tf.data.Dataset.from_tensor_slices((NUMBERS, CLASSES)).batch(
                    4, drop_remainder=True
                ),
            },
            "micro_batch is 5, but a batch has 4 examples",
        ),
        (
            {"optimizer": keras.optimizers.SGD(gradient_accumulation_steps=3)},
            "optimizer has gradient_accumulation_steps=3, .* set micro_batch",
        ),
        (
            {"optimizer": LayerwiseAdamW(gradient_accumulation_steps=2)},
            "optimizer has gradient_accumulation_steps=2",
        ),
    ],
)
def test_mistakes_are_found_before_anything_trains(options, message):
    model = one_headed()
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        fit(model, *PHASES, **options)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_later_phase_that_could_not_train_is_found_before_the_first():
    model = one_headed(keras.layers.BatchNormalization())
    later = Phase(train="all", batch_norm="update")
    before = model.get_weights()
    with pytest.raises(UserError, match="BatchNormalization that trains"):
        fit(model, Phase(train="head"), later, micro_batch=2)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


MIRRORED = """
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tf_finetune.fit.steps import Step, training_by
x, y = np.arange(120).reshape(24, 5) % 11, np.arange(24) % 3
made = []
for micro_batch in (0, 4):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Embedding(11, 4), keras.layers.Flatten(), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((5,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.5), loss)  # Adam would not see a wrong scale
        with training_by(model, Step(micro_batch=micro_batch)):
            fit = model.fit(x, y, batch_size=12, epochs=2, shuffle=False, verbose=0)
    made.append([*model.get_weights(), fit.history["loss"]])
for a, b in zip(*made):
    np.testing.assert_allclose(a, b, atol=1e-6)
print("equal")
"""


def test_each_of_two_replicas_takes_its_batch_in_parts():
    command = [sys.executable, "-c", MIRRORED]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.endswith("equal\n")
