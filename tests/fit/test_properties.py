"""Random small graphs and random plans of phases: what must hold for all of them."""

import random

import keras
import numpy as np
import pytest

from tf_finetune import Phase, fit_phases
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import set_trainable

X = np.random.default_rng(0).normal(size=(32, 5)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
STEPS = 4
SELECTIONS = ["head", "all", "last:1", "last:2", "bias", "re:kernel", "from:block_1_dense"]


def random_model(generator):
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
            x = keras.layers.Dropout(0.2, name=f"block_{i}_dropout")(x)
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
    """What trains in each phase, and what moved."""

    def __init__(self):
        super().__init__()
        self.trained, self.moved = [], []

    def on_train_begin(self, logs=None):
        self.before = [v.numpy() for v in self.model.weights]
        self.trained.append({id(v) for v in self.model.trainable_weights})

    def on_train_end(self, logs=None):
        pairs = zip(self.model.weights, self.before, strict=True)
        self.moved.append({id(v) for v, old in pairs if not np.array_equal(v.numpy(), old)})


@pytest.mark.parametrize("seed", range(8))
def test_frozen_bit_identical_trained_moved_moments_carried(seed):
    generator = random.Random(seed)
    keras.utils.set_random_seed(seed)
    model = random_model(generator)
    phases = [
        Phase(train=generator.choice(SELECTIONS), learning_rate=1e-2, warmup=0.0) for _ in range(3)
    ]
    watch = Watch()
    fit_phases(
        model,
        (X, Y),
        phases=phases,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        batch_size=32 // STEPS,
        callbacks=[watch],
        say=lambda line: None,
    )
    assert watch.moved == watch.trained
    # What a selection opens does not depend on what was open before.
    for phase, trained in zip(phases, watch.trained, strict=True):
        set_trainable(layer_groups(model), phase.train)
        assert {id(v) for v in model.trainable_weights} == trained
    set_trainable(layer_groups(model), phases[-1].train)
    state = model.optimizer.state(model.variables)
    for variable in model.trainable_weights:
        age, momentum, _ = state[variable.path]
        assert age == STEPS * sum(id(variable) in trained for trained in watch.trained)
        assert momentum.any()


@pytest.mark.parametrize("seed", range(3))
def test_one_phase_of_all_is_a_plain_fit(seed):
    generator = random.Random(seed)
    keras.utils.set_random_seed(seed)
    model = random_model(generator)
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    phase = Phase(epochs=2, learning_rate=1e-2, schedule="constant", warmup=0.0)
    phase.batch_norm = "update"
    keras.utils.set_random_seed(0)
    fit_phases(
        model,
        (X, Y),
        phases=[phase],
        loss=loss,
        optimizer=keras.optimizers.RMSprop(),
        batch_size=8,
        say=lambda line: None,
    )
    keras.utils.set_random_seed(0)
    plain.compile(keras.optimizers.RMSprop(1e-2), loss)
    plain.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    dropout = any("dropout" in layer.name for layer in model._flatten_layers())
    if not dropout:  # each draws masks from generators of its own
        for a, b in zip(model.weights, plain.weights, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)
