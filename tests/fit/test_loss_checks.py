"""A loss that does not fit: one message, before anything trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import Phase, UserError, fit_phases

X = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
WHOLE = (np.arange(24) % 3).astype("int32")
ONE_HOT = np.eye(3, dtype="float32")[WHOLE]
Sparse = keras.losses.SparseCategoricalCrossentropy
OneHot = keras.losses.CategoricalCrossentropy
Binary = keras.losses.BinaryCrossentropy


def network(units=3, activation=None, nested=False):
    layers = [keras.Input((6,)), keras.layers.Dense(4, name="block_0")]
    head = keras.layers.Dense(units, activation=activation, name="logits")
    if nested:
        head = keras.Sequential([keras.Input((4,)), head])
    return keras.Sequential([*layers, head])


def separate(units=3, kind="softmax"):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(units, name="logits")(keras.layers.Dense(4, name="block_0")(inputs))
    layer = keras.layers.Softmax() if kind == "layer" else keras.layers.Activation(kind)
    return keras.Model(inputs, layer(x))


WRONG = {
    "logits of a softmax": (
        network(activation="softmax"),
        WHOLE,
        Sparse(from_logits=True),
        "from_logits=True, but the model ends with a softmax; set from_logits=False",
    ),
    "logits of a softmax inside": (
        network(activation="softmax", nested=True),
        WHOLE,
        Sparse(from_logits=True),
        "ends with a softmax",
    ),
    "logits of a layer Softmax": (
        separate(kind="layer"),
        WHOLE,
        Sparse(from_logits=True),
        "a softmax",
    ),
    "logits of an Activation": (
        separate(kind="sigmoid"),
        ONE_HOT,
        Binary(from_logits=True),
        "a sigmoid",
    ),
    "probabilities of a Dense": (
        network(),
        WHOLE,
        Sparse(),
        r"takes probabilities.*no activation; give SparseCategoricalCrossentropy\(from_logits",
    ),
    "by name": (
        network(),
        WHOLE,
        "sparse_categorical_crossentropy",
        "takes probabilities, but the model's last layer has no activation",
    ),
    "by function": (
        network(),
        ONE_HOT,
        keras.losses.categorical_crossentropy,
        "give CategoricalCrossentropy",
    ),
    "whole numbers as one-hot": (
        network(),
        WHOLE,
        OneHot(from_logits=True),
        r"shape \(None,\), as whole numbers have; give SparseCategoricalCrossentropy",
    ),
    "one-hot as whole numbers": (
        network(),
        ONE_HOT,
        Sparse(from_logits=True),
        r"shape \(None, 3\) of the outputs.*give CategoricalCrossentropy",
    ),
    "too few outputs": (
        network(2),
        ONE_HOT,
        OneHot(from_logits=True),
        r"labels have the shape \(None, 3\), but the model gives \(None, 2\)",
    ),
    "a label out of range": (
        network(2),
        WHOLE,
        Sparse(from_logits=True),
        "labels hold 2, but the model gives 2 classes.*from 0 to 1",
    ),
    "a label below zero": (network(), WHOLE - 1, Sparse(from_logits=True), "labels hold -1"),
    "a fraction": (network(), WHOLE + 0.5, Sparse(from_logits=True), r"labels hold [012]\.5"),
    "one unit": (
        network(1, "sigmoid"),
        WHOLE % 2,
        Sparse(),
        "one value an example; give BinaryCrossentropy",
    ),
    "three classes as two": (
        network(1),
        WHOLE,
        Binary(from_logits=True),
        "labels hold 2, but BinaryCrossentropy takes 0 to 1",
    ),
    "squared error of other shapes": (
        network(2),
        X[:, 0],
        "mse",
        r"labels have the shape \(None,\), but the model gives \(None, 2\)",
    ),
}


def refused(model, train, loss, message):
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        fit_phases(model, train, phases=[Phase()], loss=loss, batch_size=8, say=lambda line: None)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(("model", "y", "loss", "message"), WRONG.values(), ids=WRONG)
def test_arrays(model, y, loss, message):
    refused(model, (X, y), loss, message)


@pytest.mark.parametrize(("model", "y", "loss", "message"), WRONG.values(), ids=WRONG)
def test_data_sets(model, y, loss, message):
    refused(model, tf.data.Dataset.from_tensor_slices((X, y)).shuffle(24).batch(8), loss, message)


class Batches(keras.utils.PyDataset):
    def __init__(self, y):
        super().__init__()
        self.y = y

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[i * 8 : i * 8 + 8], self.y[i * 8 : i * 8 + 8]


@pytest.mark.parametrize(("y", "message"), [(WHOLE + 1, "labels hold 3"), (ONE_HOT, "Categorical")])
def test_a_py_dataset(y, message):
    refused(network(), Batches(y), Sparse(from_logits=True), message)


def branched(form, kind="softmax"):
    """Classes, and a number."""
    inputs = keras.Input((6,))
    x = keras.layers.Dense(4, name="block_0")(inputs)
    classes = keras.layers.Dense(3, activation=kind, name="classes")(x)
    number = keras.layers.Dense(1, name="number")(x)
    as_dict = {"a_number": number, "a_class": classes}
    return keras.Model(inputs, as_dict if form == "dict" else [classes, number])


# The structure of outputs; of labels and losses by (classes, number).
FORMS = {
    "list": ("list", list, "classes"),
    "dict": ("dict", lambda p: dict(zip(("a_class", "a_number"), p, strict=True)), "a_class"),
    "dict by layer": (
        "list",
        lambda p: dict(zip(("classes", "number"), p, strict=True)),
        "classes",
    ),
}
SEVERAL = {
    "logits": (WHOLE, X[:, 0], (Sparse(from_logits=True), "mse"), "{0}: loss has from_logits=True"),
    "one-hot": (ONE_HOT, X[:, 0], (Sparse(), "mse"), r"{0}: loss is Sparse.* one-hot labels have"),
    "out of range": (WHOLE + 1, X[:, 0], (Sparse(), "mse"), "{0}: labels hold 3"),
    "two numbers": (WHOLE, X[:, :2], (Sparse(), "mse"), r"number: .*shape \(None, 2\), but"),
    "the second alone": (WHOLE + 1, X[:, :2], (None, "mse"), "number: labels have the shape"),
}


@pytest.mark.parametrize("make", [tuple, tf.data.Dataset.from_tensor_slices], ids=("arrays", "tf"))
@pytest.mark.parametrize(("form", "given", "name"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("classes", "number", "losses", "message"), SEVERAL.values(), ids=SEVERAL)
def test_each_of_several_outputs(make, form, given, name, classes, number, losses, message):
    labels = given((classes, number))
    train = make((X, labels if make is tuple or isinstance(labels, dict) else tuple(labels)))
    train = train if make is tuple else train.batch(8)
    refused(
        branched(form),
        train,
        given(losses),
        "output " + message.format(name).replace("number", "(a_)?number"),
    )


@pytest.mark.parametrize(("form", "given", "name"), FORMS.values(), ids=FORMS)
def test_several_outputs_that_fit(form, given, name):
    for train in ((WHOLE, X[:, 0]), (WHOLE[:, None], X[:, :1])):
        model, loss = branched(form), given((Sparse(), "mse"))
        fit_phases(model, (X, given(train)), phases=[Phase()], loss=loss, say=lambda line: None)


def test_the_loss_of_a_single_output_by_its_name():
    made, loss = network(2), {"logits": "mse"}
    model = keras.Model(made.inputs, made.outputs[0])
    fit_phases(model, (X, X[:, :2]), phases=[Phase()], loss=loss, say=lambda line: None)
    refused(model, (X, X[:, 0]), loss, r"^labels have the shape \(None,\)")


def test_labels_that_only_training_comes_upon():
    """Python code is not called beforehand, and the first batch is not all."""

    def rows():
        yield from [(X[:8], WHOLE[:8]), (X[:8], WHOLE[:8] + 1)]

    signature = (tf.TensorSpec((None, 6)), tf.TensorSpec((None,), tf.int32))
    data = tf.data.Dataset.from_generator(rows, output_signature=signature)
    data = data.apply(tf.data.experimental.assert_cardinality(2))
    refused(network(), data, Sparse(from_logits=True), r"labels hold 3, but .* classes in \[0, 3\)")
    other = tf.data.Dataset.from_tensor_slices((X, np.sort(WHOLE) + (np.arange(24) > 20))).batch(8)
    refused(
        network(), other, Sparse(from_logits=True), r"labels hold 3, but .* classes in \[0, 3\)"
    )


@pytest.mark.parametrize(
    ("model", "y", "loss"),
    [
        (network(), WHOLE, Sparse(from_logits=True)),
        (network(), WHOLE[:, None], Sparse(from_logits=True)),
        (network(), WHOLE - 1, Sparse(from_logits=True, ignore_class=-1)),
        (network(activation="softmax"), WHOLE, "sparse_categorical_crossentropy"),
        (network(1), WHOLE % 2, Binary(from_logits=True)),
        (network(1), X[:, 0], "mse"),
        (network(activation="tanh"), ONE_HOT, OneHot()),
        (network(), ONE_HOT * 2.0, lambda a, b: keras.ops.mean((a - b) ** 2)),
    ],
)
def test_what_fits_trains(model, y, loss):
    fit_phases(model, (X, y), phases=[Phase()], loss=loss, say=lambda line: None)


def test_looking_leaves_the_order_of_the_data():
    def run(loss):
        keras.utils.set_random_seed(0)
        data = tf.data.Dataset.from_tensor_slices((X, WHOLE)).shuffle(24, seed=1).batch(8)
        model = network()
        fit_phases(model, data, phases=[Phase()], loss=loss, say=lambda line: None)
        return model.get_weights()

    known = Sparse(from_logits=True)
    unknown = run(lambda a, b: known(a, b))
    assert all(np.array_equal(a, b) for a, b in zip(run(known), unknown, strict=True))


def test_a_model_that_ends_with_one_of_its_own_kind_trains():
    class Head(keras.Model):
        def __init__(self):
            super().__init__()
            self.logits = keras.layers.Dense(3, name="logits")

        def call(self, x):
            return self.logits(x)

    inputs = keras.Input((6,))
    model = keras.Model(inputs, Head()(keras.layers.Dense(4, name="block_0")(inputs)))
    loss = Sparse(from_logits=True)
    fit_phases(model, (X, WHOLE), phases=[Phase()], loss=loss, say=lambda line: None)
