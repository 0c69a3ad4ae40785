"""Phases of a user's own model on arrays: what is frozen is run over them once."""

import dataclasses

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny_pictures import tiny_resnet
from tf_finetune import Phase, fit_phases
from tf_finetune.fit import kept_arrays, planned_cuts

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(90, 8, 8, 3)).astype("float32")
EXTRA = RANDOM.normal(size=(90, 2)).astype("float32")
Y = (X.mean((1, 2, 3)) > 0).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HEAD = Phase(train="head", epochs=3, learning_rate=1e-2)
LAST = Phase(train="last:1", epochs=2, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def it_pays(monkeypatch):
    """So small a model would not be cut: reading takes as long."""
    monkeypatch.setattr(planned_cuts, "_A_BYTE", {"CPU": 0, "GPU": 0})


def pictures():
    """With batch normalisation, residuals, and dropout above and below the cut."""
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for i in range(3):
        y = keras.layers.Conv2D(4, 3, padding="same", name=f"block_{i}_conv")(x)
        y = keras.layers.BatchNormalization(name=f"block_{i}_norm")(y)
        y = keras.layers.Dropout(0.2, name=f"block_{i}_dropout")(y)
        x = keras.layers.Add(name=f"block_{i}_add")([x, y]) if i else y
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.3, name="dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


def two_inputs():
    """One of which goes to the head alone."""
    base = pictures()
    image, extra = keras.Input((8, 8, 3), name="image"), keras.Input((2,), name="extra")
    x = keras.layers.Concatenate()([base(image), extra])
    return keras.Model({"image": image, "extra": extra}, keras.layers.Dense(2, name="out")(x))


def rows(build, part):
    x = {"image": X[part], "extra": EXTRA[part]} if build is two_inputs else X[part]
    return x, Y[part], np.linspace(0.5, 1.5, 90, dtype="float32")[part]


def fitted(build, phases, *, cache, **options):
    keras.utils.set_random_seed(7)
    model, said = build(), []
    train, validation = (rows(build, part) for part in (slice(0, 60), slice(60, 90)))
    options = {"loss": LOSS, "metrics": ["accuracy"], "batch_size": 16} | options
    options = {"train": train, "validation": validation} | options
    result = fit_phases(model, phases=phases, cache=cache, say=said.append, **options)
    return model, result, said


def told(said):
    return [line for line in said if "trains on kept activations" in line]


CASES = {
    "head, then the last block": (pictures, [HEAD, LAST], {}),
    "inputs that are passed on": (two_inputs, [HEAD], {}),
    "a batch in parts, averages": (pictures, [LAST], {"micro_batch": 5, "ema": 0.9}),
    "an optimiser of one's own": (pictures, [HEAD], {"optimizer": keras.optimizers.SGD(0.1)}),
}


@pytest.mark.parametrize(("build", "phases", "options"), CASES.values(), ids=CASES)
def test_what_is_kept_changes_no_result(build, phases, options):
    kept, result, said = fitted(build, phases, cache=True, **options)
    whole, expected, silent = fitted(build, phases, cache=False, **options)
    assert len(told(said)) == len(phases)
    assert not told(silent)
    for a, b in zip(kept.weights, whole.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)
    for a, b in zip(result.history, expected.history, strict=True):
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-5)
    assert [p.audit for p in result.phases] == [p.audit for p in expected.phases]
    assert [p.total for p in result.phases] == [p.total for p in expected.phases]
    assert all(0.3 < phase.kept_share < 1 for phase in result.phases)
    assert not any(phase.kept_share for phase in expected.phases)
    # The model is the user's own again.
    x, y, _ = rows(build, slice(60, 90))
    found = kept.evaluate(x, y, verbose=0, return_dict=True)
    assert found == pytest.approx(whole.evaluate(x, y, verbose=0, return_dict=True), rel=1e-5)


def test_only_arrays_that_nobody_else_looks_at_are_kept(monkeypatch):
    data = tf.data.Dataset.from_tensor_slices((X[:60], Y[:60])).batch(16)
    for options in (
        {"train": data},
        {"validation": data},
        {"callbacks": [keras.callbacks.Callback()]},
        {"mixup": 0.2},
    ):
        _, result, said = fitted(pictures, [HEAD], cache=True, **options)
        assert not told(said)
        assert result.phases[0].kept_share == 0
    monkeypatch.setattr(kept_arrays, "free_bytes", lambda: 1000)
    _, _, said = fitted(pictures, [HEAD], cache=True)
    (line,) = [line for line in said if "not cut" in line]
    assert line.startswith("phase head: the model is not cut, because what is to be kept takes")


def test_a_model_with_a_call_of_its_own_is_not_cut():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.base, self.logits = pictures(), keras.layers.Dense(2, name="logits")

        def call(self, x, training=None):
            return self.logits(self.base(x, training=training))

    _, _, said = fitted(Own, [HEAD], cache=True, backbone=None)
    (line,) = [line for line in said if "not cut" in line]
    assert "Own is no functional model, but has a call of its own" in line


def test_a_model_with_a_step_or_a_loss_of_its_own_is_not_cut():
    class Own(keras.Sequential):
        def compute_loss(self, *args, **options):
            return 3 * super().compute_loss(*args, **options)

    def build():
        return Own([pictures(), keras.layers.Dense(2, name="more")])

    _, result, said = fitted(build, [HEAD], cache=True)
    _, expected, _ = fitted(build, [HEAD], cache=False)
    assert not told(said)
    (line,) = [line for line in said if "not cut" in line]
    assert "because Own has a compute_loss of its own" in line
    assert result.history[-1]["val_loss"] == expected.history[-1]["val_loss"]


def test_a_task_that_prepares_its_own_inputs_is_not_cut():
    converter = keras_hub.layers.ResNetImageConverter(image_size=(32, 32), scale=1 / 255)
    preprocessor = keras_hub.models.ResNetImageClassifierPreprocessor(converter)

    def build():
        return keras_hub.models.ResNetImageClassifier(
            tiny_resnet(), num_classes=2, preprocessor=preprocessor
        )

    kept, _, said = fitted(build, [HEAD], cache=True, backbone=None)
    whole, _, _ = fitted(build, [HEAD], cache=False, backbone=None)
    assert not told(said)
    for a, b in zip(kept.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


@pytest.mark.parametrize("labels", ["dict", "list"])
def test_outputs_in_a_list_keep_their_names(labels):
    def build():
        base = pictures()
        x = base.layers[-2].output
        outputs = [keras.layers.Dense(2, name="a")(x), keras.layers.Dense(1, name="b")(x)]
        return keras.Model(base.input, outputs)

    values = EXTRA[:, :1]
    given = {"a": Y, "b": values} if labels == "dict" else [Y, values]
    train, validation = (
        (X[part], keras.tree.map_structure(lambda y, part=part: y[part], given))
        for part in (slice(0, 60), slice(60, 90))
    )
    options = {"loss": {"a": LOSS, "b": "mse"}, "metrics": {"a": ["accuracy"]}}
    options |= {"train": train, "validation": validation}
    _, result, said = fitted(build, [HEAD], cache=True, **options)
    _, expected, _ = fitted(build, [HEAD], cache=False, **options)
    assert told(said)
    assert result.history[-1].keys() == expected.history[-1].keys()
    assert "val_a_accuracy" in result.history[-1]
    assert result.history[-1]["val_loss"] == pytest.approx(expected.history[-1]["val_loss"], 1e-5)


def test_the_memory_that_is_needed_goes_by_the_longest_input(monkeypatch):
    """Not by the one whose name comes first."""

    def build():
        tokens, features = keras.Input((None,), name="tokens"), keras.Input((4,), name="features")
        x = keras.layers.Embedding(10, 8, name="embedding")(tokens)
        for i in range(3):
            x = keras.layers.Conv1D(8, 3, padding="same", name=f"block_{i}_conv")(x)
        pooled = keras.layers.GlobalAveragePooling1D()(x)
        both = keras.layers.Concatenate()([pooled, features])
        outputs = keras.layers.Dense(2, name="logits")(both)
        return keras.Model({"tokens": tokens, "features": features}, outputs)

    x = {"tokens": np.ones((60, 400), "int32"), "features": EXTRA[:60].repeat(2, axis=1)}
    # Of 400 tokens 60 rows take 768 kB.
    monkeypatch.setattr(kept_arrays, "free_bytes", lambda: 400_000)
    phase = dataclasses.replace(LAST, learning_rate=1e-3)
    options = {"train": (x, Y[:60]), "validation": None, "metrics": []}
    _, _, said = fitted(build, [phase], cache=True, **options)
    assert [line for line in said if "what is to be kept takes" in line]


def test_what_is_random_below_the_head_is_drawn_in_each_epoch():
    def build():
        base = pictures()
        image = keras.Input((8, 8, 3))
        x = keras.layers.RandomFlip(name="flip")(image)
        return keras.Model(image, keras.layers.Dense(2, name="out")(base(x)))

    _, _, said = fitted(build, [HEAD], cache=True)
    assert not told(said)
