"""Random small graphs and random plans of phases: what must hold for all of them."""

import itertools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_finetune import GradualUnfreezing, LayerwiseAdamW, Phase, fit_phases
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import set_trainable

X = np.random.default_rng(0).normal(size=(32, 5)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
STEPS = 4
SELECTIONS = ["head", "all", "last:1", "last:2", "bias", "re:kernel", "from:block_1_dense"]


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def random_model(generator, dropout=0.2):
    """Two to four blocks of random parts: dense, norm, dropout, residual, shared, nested."""
    inputs = x = keras.Input((5,))
    x = keras.layers.Dense(6, name="stem")(x)
    shared = keras.layers.Dense(6, activation="tanh", name="shared")
    for i in range(generator.randint(2, 4)):
        before = x
        x = keras.layers.Dense(6, activation="tanh", name=f"block_{i}_dense")(x)
        if generator.random() < 0.5:
            norm = generator.choice(
                [keras.layers.BatchNormalization, keras.layers.LayerNormalization]
            )
            x = norm(name=f"block_{i}_norm")(x)
        if generator.random() < 0.4:
            x = keras.layers.Dropout(dropout, name=f"block_{i}_dropout")(x)
        if generator.random() < 0.3:
            x = shared(x)
        if generator.random() < 0.5:
            x = keras.layers.Add(name=f"block_{i}_add")([before, x])
    if generator.random() < 0.5:
        body = keras.Model(inputs, x, name="body")
        inputs = keras.Input((5,))
        x = body(inputs)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


class Watch(keras.callbacks.Callback):
    """What trains in each phase, what moved, and what the optimiser knew before and after."""

    def __init__(self):
        super().__init__()
        self.trained, self.moved, self.known, self.may_move = [], [], [], []

    def state(self):
        optimizer = self.model.optimizer
        return optimizer.state(self.model.variables) if hasattr(optimizer, "state") else {}

    def on_train_begin(self, logs=None):
        self.known.append([self.state()])
        self.before = [v.numpy() for v in self.model.weights]
        self.trained.append({id(v) for v in self.model.trainable_weights})
        statistics = {
            id(v)
            for layer in self.model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
            for v in (layer.moving_mean, layer.moving_variance)
        }
        self.may_move.append(self.trained[-1] | statistics)

    def on_train_end(self, logs=None):
        pairs = zip(self.model.weights, self.before, strict=True)
        self.moved.append({id(v) for v, old in pairs if not np.array_equal(v.numpy(), old)})
        self.known[-1].append(self.state())


@pytest.mark.parametrize("seed", range(8))
def test_frozen_bit_identical_trained_moved_moments_carried(seed):
    generator = random.Random(seed)
    keras.utils.set_random_seed(seed)
    model = random_model(generator)
    norms = [layer for layer in model._flatten_layers() if layer.name.endswith("_norm")]
    selections = [*SELECTIONS, *(["norm"] if norms else [])]
    phases = [
        Phase(
            train=generator.choice(selections),
            batch_norm=generator.choice(["freeze", "affine", "update"]),
            layer_decay=generator.choice([1.0, 0.7]),
            learning_rate=1e-2,
            warmup=0.0,
        )
        for _ in range(3)
    ]
    watch = Watch()
    fit_phases(
        model,
        (X, Y),
        phases=phases,
        loss=LOSS,
        batch_size=32 // STEPS,
        callbacks=[watch],
        say=lambda line: None,
    )
    assert watch.moved == watch.may_move
    # What a selection opens does not depend on what was open before.
    for phase, trained in zip(phases, watch.trained, strict=True):
        set_trainable(layer_groups(model), phase.train, phase.batch_norm)
        assert {id(v) for v in model.trainable_weights} == trained
    latest = {}
    for trained, (before, after) in zip(watch.trained, watch.known, strict=True):
        assert len(before) == len(trained)
        for name, (age, *moments) in before.items():
            known_age, *known = latest.get(name, (0, np.zeros(1), np.zeros(1)))
            assert age == known_age
            for found, expected in zip(moments, known, strict=True):
                np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))
            assert after[name][0] == age + STEPS
            assert after[name][1].any()
        latest |= after


@pytest.mark.parametrize("seed", range(8))
def test_phases_equal_plain_fits_one_after_another(seed):
    """With an optimiser that has nothing to carry, and no dropout, which frozen parts lack."""
    generator = random.Random(seed)
    keras.utils.set_random_seed(seed)
    model = random_model(generator, dropout=0.0)
    plain, gradual = keras.models.clone_model(model), keras.models.clone_model(model)
    before = model.get_weights()
    plain.set_weights(before)
    gradual.set_weights(before)
    options = {"learning_rate": 1e-1, "schedule": "constant", "warmup": 0.0}
    phases = [
        Phase(train=generator.choice(SELECTIONS), epochs=generator.randint(1, 3), **options)
        for _ in range(3)
    ]
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32 // STEPS)
    quiet = {"loss": LOSS, "spike_guard": 0, "say": lambda line: None}
    fit_phases(model, data, phases=phases, optimizer=keras.optimizers.SGD(), **quiet)
    for phase in phases:
        set_trainable(layer_groups(plain), phase.train)
        plain.compile(keras.optimizers.SGD(1e-1), LOSS)
        plain.fit(data, epochs=phase.epochs, shuffle=False, verbose=0)
    ends = list(itertools.accumulate(phase.epochs for phase in phases))
    starts = zip([0, *ends], phases, strict=False)
    callback = GradualUnfreezing({start: phase.train for start, phase in starts}, say=None)
    gradual.compile(keras.optimizers.SGD(1e-1), LOSS)
    gradual.fit(data, epochs=ends[-1], shuffle=False, verbose=0, callbacks=[callback])
    assert any(not np.array_equal(a, b) for a, b in zip(before, plain.get_weights(), strict=True))
    for a, b, c in zip(model.weights, plain.weights, gradual.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)
        np.testing.assert_allclose(c.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)


@pytest.mark.parametrize(
    "make", [lambda rate: keras.optimizers.RMSprop(rate), lambda rate: LayerwiseAdamW(rate)]
)
@pytest.mark.parametrize("seed", range(3))
def test_one_phase_of_all_is_a_plain_fit(seed, make):
    generator = random.Random(seed)
    keras.utils.set_random_seed(seed)
    model = random_model(generator)
    plain = keras.models.clone_model(model)
    for a, b in zip(model.variables, plain.variables, strict=True):
        b.assign(a)  # the state of each dropout's random numbers among them
    phase = Phase(epochs=2, learning_rate=1e-2, schedule="constant", warmup=0.0)
    phase.batch_norm = "update"
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32 // STEPS)
    quiet = {"loss": LOSS, "say": lambda line: None}
    fit_phases(model, data, phases=[phase], optimizer=make(0.1), **quiet)
    plain.compile(make(1e-2), LOSS)
    plain.fit(data, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)
