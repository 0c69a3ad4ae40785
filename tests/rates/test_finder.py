import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import Phase, UserError, find_learning_rate, fit_phases
from tf_finetune.rates.curve import curve_of, diverged, longest_fall, smoothed

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(96, 6)).astype("float32")
Y = (X[:, :2].sum(1) > 0).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
QUIET = {"say": lambda line: None}


def network():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu", name="block_0_dense")(inputs)
    x = keras.layers.BatchNormalization(name="block_0_norm")(x)
    x = keras.layers.Dropout(0.3, name="block_0_dropout")(x)
    x = keras.layers.Dense(8, activation="relu", name="block_1_dense")(x)
    x = keras.layers.GaussianNoise(0.1)(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


class Batches(keras.utils.PyDataset):
    """Rows drawn by a random state of its own."""

    def __init__(self):
        super().__init__()
        self.random = np.random.default_rng(3)

    def __len__(self):
        return 6

    def __getitem__(self, i):
        rows = self.random.permutation(96)[:16]
        return X[rows], Y[rows]


def tensors(**options):
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(96, **options).batch(16)


def from_python():
    """Its rows come from NumPy's global random state."""

    def rows():
        for _ in range(6):
            chosen = np.random.permutation(96)[:16]
            yield X[chosen], Y[chosen]

    signature = (tf.TensorSpec((None, 6)), tf.TensorSpec((None,), tf.int32))
    data = tf.data.Dataset.from_generator(rows, output_signature=signature).prefetch(2)
    return data.apply(tf.data.experimental.assert_cardinality(6))


DATA = {
    "arrays": lambda: (X, Y),
    "shuffled": tensors,
    "with a seed": lambda: tensors(seed=7),
    "generator": from_python,
    "PyDataset": Batches,
}


def everything(model):
    return [v.numpy() for v in [*model.variables, *model.optimizer.variables]]


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
def test_training_goes_on_bit_for_bit_as_without_it(make):
    """Weights, optimiser, statistics, random states and the order of the data."""

    def run(*, find):
        model, train = network(), make()
        given = {"x": X, "y": Y} if isinstance(train, tuple) else {"x": train}
        model.compile(keras.optimizers.Adam(1e-2), LOSS, metrics=["accuracy"])
        model.fit(**given, verbose=0)
        if find:
            compiled, flags = dict(vars(model)), [layer.trainable for layer in model.layers]
            metrics = [v.numpy() for v in model.metrics_variables]
            phase = Phase(train="last:1", batch_norm="update")
            curve = find_learning_rate(model, train, phase, loss=LOSS, steps=40, **QUIET)
            assert len(curve.losses) >= 20
            assert vars(model).keys() == compiled.keys()
            assert all(vars(model)[name] is value for name, value in compiled.items())
            assert [layer.trainable for layer in model.layers] == flags
            np.testing.assert_equal([v.numpy() for v in model.metrics_variables], metrics)
        history = model.fit(**given, epochs=2, verbose=0).history
        after = everything(model)
        fit_phases(model, train, None, [Phase(epochs=2)], loss=LOSS, **QUIET)
        drawn = [
            random.random(),
            np.random.random(),
            float(keras.random.uniform(())),
            float(tf.random.uniform(())),
        ]
        return history, after, everything(model), drawn

    plain, found = run(find=False), run(find=True)
    assert plain[0] == found[0]
    for before, after in zip(plain[1] + plain[2], found[1] + found[2], strict=True):
        np.testing.assert_array_equal(before, after)
    assert plain[3] == found[3]


def test_names_of_what_is_made_later_do_not_change():
    model = network()
    keras.backend.clear_session()
    keras.layers.Dense(1)
    find_learning_rate(model, (X, Y), loss=LOSS, steps=20, **QUIET)
    assert keras.layers.Dense(1).name == "dense_1"
    assert keras.optimizers.Adam().name == "adam"
    assert not model.compiled


def test_even_a_search_that_fails_leaves_no_trace(monkeypatch):
    model = network()
    model.compile("adam", "mse")
    compiled, flags = dict(vars(model)), [layer.trainable for layer in model.layers]
    before = model.get_weights()

    def fails(losses):
        assert not np.array_equal(model.get_weights()[-1], before[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr("tf_finetune.rates.finder.diverged", fails)
    with pytest.raises(KeyboardInterrupt):
        find_learning_rate(model, (X, Y), Phase(train="head"), loss=LOSS, lowest=0.1, **QUIET)
    assert vars(model) == compiled
    assert [layer.trainable for layer in model.layers] == flags
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_each_step_has_its_rate():
    """The losses of plain gradient descent, by hand."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, name="logits")])
    x, y = X[:8].astype("float64"), Y[:8, None].astype("float64")
    curve = find_learning_rate(
        model,
        (X[:8], Y[:8, None].astype("float32")),
        loss="mse",
        optimizer=keras.optimizers.SGD(),
        batch_size=8,
        lowest=1e-4,
        highest=0.1,
        steps=20,
        **QUIET,
    )
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    expected = []
    for rate in np.geomspace(1e-4, 0.1, 20):
        error = x @ kernel + bias - y
        expected.append(np.mean(error**2))
        kernel = kernel - rate * 2 * x.T @ error / 8
        bias = bias - rate * 2 * error.mean(0)
    np.testing.assert_allclose(curve.raw, expected, atol=1e-5)
    np.testing.assert_allclose(curve.rates, np.geomspace(1e-4, 0.1, 20))
    assert curve.suggestion is not None
    assert curve.diverged_at is None


def test_it_finds_a_rate_that_trains_and_stops_where_the_loss_blows_up():
    said = []
    model = network()
    sgd = keras.optimizers.SGD()
    curve = find_learning_rate(
        model, (X, np.eye(2)[Y]), loss="mse", optimizer=sgd, highest=1e4, say=said.append
    )
    assert curve.diverged_at == curve.rates[-1] < 1e4
    assert curve.minimum_over_10 < curve.diverged_at / 10
    assert len(said) == 1
    assert f"suggestion {curve.suggestion:.1e} (valley), the steepest at" in said[0]
    assert f"diverged at {curve.diverged_at:.1e}" in said[0]


def test_without_a_fall_there_is_no_suggestion():
    curve = find_learning_rate(network(), (X, Y), loss=LOSS, lowest=1e-12, highest=1e-9, **QUIET)
    assert curve.suggestion is curve.steepest is curve.minimum_over_10 is None
    assert "no suggestion, for the loss did not fall anywhere" in curve.summary()


def test_noise_is_no_fall():
    rates = np.geomspace(1e-7, 10, 100)
    noise = np.random.default_rng(0).normal(0.5, 0.1, (100, 100))
    assert sum(curve_of(rates, list(row)).suggestion is not None for row in noise) <= 2


def test_the_suggestions_of_a_curve_known_by_heart():
    rates = np.geomspace(1e-6, 1.0, 61)  # ten a decade
    # Flat to 1e-4, falls to 1e-2, most from 1e-3 on, then rises.
    points = np.interp(np.log10(rates), [-6, -4, -3, -2, 0], [1.0, 1.0, 0.8, 0.2, 0.9])
    curve = curve_of(rates, list(points))
    assert curve.losses == pytest.approx(smoothed(points))
    lowest = int(np.argmin(curve.losses))
    assert curve.minimum_over_10 == pytest.approx(rates[lowest] / 10)
    assert curve.steepest == pytest.approx(rates[int(np.argmin(np.diff(curve.losses)))])
    # The fall begins at 1e-4, the 21st rate; its last place above the half is meant.
    half = (curve.losses[20] + curve.losses[lowest]) / 2
    place = int(np.argmin(np.abs(rates - curve.suggestion)))
    assert curve.losses[place] >= half > curve.losses[place + 1]
    assert rates[20] < curve.suggestion < rates[lowest]
    assert curve.diverged_at is None


def test_smoothing_by_hand():
    assert smoothed([2.0, 4.0]) == pytest.approx([2.0, (0.1 * 4 + 0.09 * 2) / 0.19])


@pytest.mark.parametrize(
    ("losses", "fall"),
    [([3.0, 1.0, 2.0, 0.5], (0, 3)), ([1.0, 2.0, 3.0], (0, 0)), ([5.0, 9.0, 8.0, 7.0], (1, 3))],
)
def test_the_longest_fall(losses, fall):
    assert longest_fall(losses) == fall


@pytest.mark.parametrize(
    ("losses", "blown"),
    [
        ([1.0, float("nan")], True),
        ([1.0, float("inf")], True),
        ([1.0] * 20 + [20.0], False),
        ([1.0] * 20 + [60.0], True),
        ([-1.0] * 20 + [10.0], False),
        ([-1.0] * 20 + [40.0], True),
        # From 1 to nearly nothing; three times nothing is no divergence.
        ([1.0] + [1e-6] * 80 + [0.1], False),
    ],
)
def test_what_counts_as_diverged(losses, blown):
    assert diverged(losses) is blown


def test_the_plot_and_the_table_show_the_curve(tmp_path):
    from xml.etree import ElementTree

    rates = np.geomspace(1e-6, 1.0, 61)
    points = np.interp(np.log10(rates), [-6, -4, -2, 0], [1.0, 1.0, 0.2, 9.0])
    curve = curve_of(rates, [*points, float("inf")][: len(rates)])
    curve.plot(tmp_path / "rates.svg")
    root = ElementTree.parse(tmp_path / "rates.svg").getroot()
    line = next(e for e in root if e.tag.endswith("polyline")).attrib["points"].split()
    assert len(line) == len(curve.rates)
    heights = [float(point.split(",")[1]) for point in line]
    # SVG counts downwards.
    assert int(np.argmax(heights)) == int(np.argmin(curve.losses))
    words = " ".join(e.text for e in root if e.tag.endswith("text"))
    assert f"suggestion {curve.suggestion:.1e}" in words
    assert "1e-3" in words
    rows = curve.table().splitlines()
    assert 10 < len(rows) < 16
    assert rows[1].split()[:2] == ["1.0e-06", "1.0000"]
    for name, message in (("rates.png", "end in .svg"), ("no/rates.svg", "there is no folder")):
        with pytest.raises(UserError, match=message):
            curve.plot(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowest": 0.0}, "lowest is 0"),
        ({"lowest": 1.0, "highest": 0.5}, "highest is 0.5; it must be above lowest"),
        ({"steps": 5}, "steps is 5; it must be at least 20"),
        ({"phase": Phase(train="hat")}, 'phase.train is "hat"'),
        ({"train": 3}, "train is a int"),
        ({"train": tensors().take(0)}, "train is empty"),
        ({"model": keras.Sequential([keras.layers.Dense(2)])}, "has no weights yet"),
        ({"optimizer": "adam"}, "optimizer is str"),
    ],
)
def test_mistakes(options, message):
    given = {"model": network(), "train": (X, Y), "loss": LOSS, **QUIET} | options
    with pytest.raises(UserError, match=message):
        find_learning_rate(**given)


def test_python_code_in_the_data_is_told_of():
    said = []
    find_learning_rate(network(), from_python(), loss=LOSS, steps=20, say=said.append)
    assert "train calls Python code" in said[0]
    assert len(said) == 2
