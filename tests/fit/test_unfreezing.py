"""Opening layers inside one plain `model.fit`."""

import itertools

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_backbone, tiny_preprocessor, tiny_texts
from tf_finetune import GradualUnfreezing, LayerwiseAdamW, UserError
from tf_finetune.fit.audit import AuditError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 6)).astype("float32")
Y = (X[:, :2].sum(1) > 0).astype("int32")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, activation="relu", name=f"block_{i}") for i in range(2)]
    base = keras.Sequential([keras.Input((6,)), *layers], name="base")
    return keras.Sequential([keras.Input((6,)), base, keras.layers.Dense(2, name="logits")])


class Weights(keras.callbacks.Callback):
    """The weights before the first step and after each."""

    def on_train_begin(self, logs=None):
        self.seen = [self.model.get_weights()]

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.get_weights())


def fit_steps(model, callback, optimizer):
    """The weights before and after each step."""
    model.compile(optimizer, LOSS)
    weights = Weights()
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    model.fit(dataset, epochs=3, shuffle=False, verbose=0, callbacks=[callback, weights])
    return list(itertools.pairwise(weights.seen))


def fit(model, callback, *, epochs=3, compiled=None, **options):
    model.compile(compiled or LayerwiseAdamW(1e-2), LOSS, metrics=["accuracy"], **options)
    weights = Weights()
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    history = model.fit(
        dataset, epochs=epochs, shuffle=False, verbose=0, callbacks=[callback, weights]
    )
    return history, np.array([[np.abs(w).sum() for w in step] for step in weights.seen])


def quiet(schedule, **options):
    return GradualUnfreezing(schedule, say=None, **options)


@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}, {"jit_compile": True}])
def test_layers_open_when_the_schedule_says_and_not_before(options):
    model = build()
    history, sums = fit(model, quiet({0: "head", 1: "last:1", 2: "all"}), **options)
    per_epoch = 4 // options.get("steps_per_execution", 1)
    # Kernel and bias of block_0, block_1 and the head; by the step of their first move.
    first = [np.flatnonzero(np.diff(sums[:, i]))[0] // per_epoch for i in range(6)]
    assert first == [2, 2, 1, 1, 0, 0]
    assert history.epoch == [0, 1, 2]
    assert len(history.history["accuracy"]) == 3
    assert int(model.optimizer.iterations.numpy()) == 12
    assert len(model.trainable_weights) == 6


def test_setting_trainable_in_a_callback_has_no_effect_in_stock_keras():
    """What the callback is for; if this fails, Keras has mended it."""

    class Plain(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.get_layer("base").trainable = epoch > 0

    _, sums = fit(build(), Plain())
    model = build()
    model.get_layer("base").trainable = False
    _, sums = fit(model, Plain())
    assert not np.diff(sums[:, :4], axis=0).any()


def test_it_equals_fits_by_hand_one_after_another():
    ours, hand = build(), build()
    fit(ours, quiet({0: "head", 2: "all"}), compiled=keras.optimizers.SGD(0.1))
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    for trainable, epochs in ((False, 2), (True, 1)):
        hand.get_layer("base").trainable = trainable
        hand.compile(keras.optimizers.SGD(0.1), LOSS)
        hand.fit(dataset, epochs=epochs, shuffle=False, verbose=0)
    for a, b in zip(ours.weights, hand.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)


def test_momentum_and_schedule_go_on_where_more_opens():
    """The head trains as if it had been all in one plain fit: the rest has no effect on it."""
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 12)
    inputs = keras.Input((6,))
    # The head does not look at the frozen part's output, so its gradients are the same.
    side = keras.layers.Dense(2, name="block_0")(inputs)
    head = keras.layers.Dense(2, name="logits")(inputs)
    model = keras.Model(inputs, keras.layers.Concatenate()([head, side]))
    x_only = keras.Model(inputs, head)
    start = [w.copy() for w in x_only.get_weights()]
    data = tf.data.Dataset.from_tensor_slices((X, np.eye(4, dtype="float32")[Y])).batch(16)
    model.compile(LayerwiseAdamW(schedule, weight_decay=0.0), "mse")
    stages = {0: "re:logits", 1: "all"}
    model.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[quiet(stages)])
    ours = [w.copy() for w in x_only.get_weights()]
    x_only.set_weights(start)
    model.trainable = True
    model.compile(LayerwiseAdamW(schedule, weight_decay=0.0), "mse")
    model.fit(data, epochs=3, shuffle=False, verbose=0)
    for a, b in zip(ours, x_only.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "least", "most"),
    [
        (LayerwiseAdamW(1e-3, weight_decay=0.0), 0.99, 1.001),
        (keras.optimizers.Adam(1e-3), 2.0, 3.2),
    ],
    ids=["ours", "stock"],
)
def test_the_first_step_of_what_opens_late(optimizer, least, most):
    """1.0 x the rate with ours; a stock Adam's grows with the steps before."""

    class FirstStep(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.before, self.step = self.read(), None

        def on_train_batch_end(self, batch, logs=None):
            if self.step is None:
                self.step = np.abs(self.read() - self.before).max()

        def read(self):
            return self.model.get_layer("base").get_layer("block_1").get_weights()[0]

    look = FirstStep()
    model = build()
    model.compile(optimizer, LOSS)
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16).repeat()
    callbacks = [quiet({0: "head", 1: "all"}), look]
    model.fit(dataset, steps_per_epoch=1000, epochs=2, verbose=0, callbacks=callbacks)
    assert least < look.step / 1e-3 < most


@pytest.mark.parametrize("warmup", [0, 3])
def test_layers_that_open_later_have_a_warm_up_of_their_own(warmup):
    """The first step of Adam is one rate long: so it shows the rate of a variable."""
    optimizer = LayerwiseAdamW(1e-2, weight_decay=0.0, warmup_steps=warmup)
    model, first = build(), []
    steps = fit_steps(model, quiet({0: "head", 1: "last:1", 2: "all"}), optimizer)
    for i in range(6):  # kernel and bias of block_0, block_1 and the head
        moved = [np.abs(after[i] - before[i]).max() for before, after in steps]
        first.append(next(move for move in moved if move))
    np.testing.assert_allclose(first, 1e-2 / (warmup + 1), rtol=1e-3)


def test_a_model_that_was_frozen_when_compiled():
    model = build()
    model.get_layer("base").trainable = False
    _, sums = fit(model, quiet({0: "head", 1: "all"}), epochs=2)
    assert np.diff(sums[4:, 0]).all()
    assert not np.diff(sums[:5, 0]).any()
    # An optimiser that was built for the head alone, and has made no step, is made anew.
    model = build()
    model.get_layer("base").trainable = False
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    _, sums = fit(model, quiet({0: "head", 1: "all"}), epochs=2, compiled=optimizer)
    assert np.diff(sums[4:, 0]).all()
    assert model.optimizer.momentum == 0.9


def test_what_is_excluded_from_decay_stays_so():
    """Also where the optimiser is made anew, as it was built for the head alone."""

    def decayed():
        optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["logits"])
        return optimizer

    ours, plain = build(), build()
    ours.get_layer("base").trainable = False
    optimizer = decayed()
    optimizer.build(ours.trainable_variables)
    fit(ours, quiet({0: "all"}), compiled=optimizer)
    fit(plain, keras.callbacks.Callback(), compiled=decayed())
    for a, b in zip(ours.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(8, activation="relu", name="block_0")
        self.second = keras.layers.Dense(8, activation="relu", name="block_1")
        self.logits = keras.layers.Dense(2, name="logits")

    def call(self, x):
        return self.logits(self.second(self.first(x)))


def test_a_subclassed_model_opens_layer_by_layer():
    model = Subclassed()
    model(X[:1])
    _, sums = fit(model, quiet({0: "head", 1: "last:1", 2: "all"}))
    first = [np.flatnonzero(np.diff(sums[:, i]))[0] // 4 for i in range(6)]
    assert first == [2, 2, 1, 1, 0, 0]


def test_a_keras_hub_task_opens_layer_by_layer():
    task = keras_hub.models.BertTextClassifier(
        tiny_backbone(num_layers=2), num_classes=2, preprocessor=tiny_preprocessor()
    )
    texts, labels = tiny_texts(32)
    start = {v.path: v.numpy() for v in task.weights}
    moved = []

    def note(epoch, logs):
        paths = {v.path for v in task.weights if not np.array_equal(v.numpy(), start[v.path])}
        moved.append({path.split("/")[0] for path in paths})

    task.compile(LayerwiseAdamW(1e-2), LOSS)
    callbacks = [
        quiet({0: "head", 1: "last:1"}),
        keras.callbacks.LambdaCallback(on_epoch_end=note),
    ]
    task.fit(np.array(texts), labels, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
    assert moved[0] == {"logits"}
    assert moved[1] == {"transformer_layer_1", "pooled_dense", "logits"}


def test_gradual_opens_a_block_an_epoch():
    said = []
    fit(build(), GradualUnfreezing(say=said.append), epochs=5)
    total = 6 * 8 + 8 + 8 * 8 + 8 + 8 * 2 + 2
    assert [line.split(" of ")[0] for line in said if "audit" not in line] == [
        "epoch 1: trainable 18",
        "epoch 2: trainable 90",
        f"epoch 3: trainable {total}",
    ]


def test_a_stage_that_opens_nothing_is_named():
    said = []
    fit(build(), GradualUnfreezing({0: "head", 1: "head", 2: "all"}, say=said.append))
    assert said[0] == 'schedule: epoch 1 has "head" as before, and opens nothing.'
    assert [line for line in said if "audit" in line] == [
        "epochs 1 to 2: audit: 2 variables moved, 4 frozen bit-identical",
        "epochs 3 to 3: audit: 6 variables moved, 0 frozen bit-identical",
    ]


def test_each_stage_is_audited():
    said = []
    callback = GradualUnfreezing({0: "head", 1: "last:1", 3: "all"}, say=said.append)
    fit(build(), callback, epochs=4)
    assert [(a.trained_moved, a.frozen_unchanged) for a in callback.audits] == [
        *((2, 4), (4, 2), (6, 0)),
    ]
    assert [line for line in said if "audit" in line] == [
        "epochs 1 to 1: audit: 2 variables moved, 4 frozen bit-identical",
        "epochs 2 to 3: audit: 4 variables moved, 2 frozen bit-identical",
        "epochs 4 to 4: audit: 6 variables moved, 0 frozen bit-identical",
    ]


class Changing(keras.callbacks.Callback):
    """Changes something in an epoch: a weight, or the rate."""

    def __init__(self, epoch, change):
        super().__init__()
        self.at, self.change = epoch, change

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            self.change(self.model)


def nudge(model):
    model.weights[0].assign_add(model.weights[0] * 0 + 1)


def test_a_frozen_variable_that_changes_fails_the_epoch():
    with pytest.raises(AuditError, match=r"1 frozen variables changed: \['base/block_0/kernel'\]"):
        audited([Changing(1, nudge)], {0: "head", 2: "all"})
    assert audited.epochs == 1
    audited([Changing(2, nudge)], {0: "head", 2: "all"})


def test_a_stage_in_which_nothing_moves_fails():
    with pytest.raises(AuditError, match=r'train="head": 2 of 2 variables were to train but'):
        audited([], {0: "head", 2: "all"}, rate=0.0)
    assert audited.epochs == 2
    # One that moves late does not.
    audited([Changing(1, faster)], {0: "head", 2: "all"}, rate=0.0)


def faster(model):
    model.optimizer.learning_rate = 0.1


@pytest.mark.parametrize("first", [True, False])
def test_weights_brought_back_at_the_end_are_not_taken_for_a_defect(first):
    class Stopping(keras.callbacks.Callback):
        """As early stopping that brings back the weights of an earlier stage."""

        def on_epoch_end(self, epoch, logs=None):
            self.best = self.best if epoch else self.model.get_weights()
            self.model.stop_training = epoch == 2

        def on_train_end(self, logs=None):
            self.model.set_weights(self.best)

    callback = audited([Stopping()], {0: "all", 1: "head"}, epochs=9, last=first)
    assert [(a.trained_moved, a.frozen_unchanged) for a in callback.audits] == [(6, 0), (2, 4)]


def audited(callbacks, schedule, *, rate=0.1, epochs=3, last=False):
    """The callback after a fit beside others; counts the epochs that ended."""
    audited.epochs = 0

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            audited.epochs += 1

    model, ours = build(), quiet(schedule)
    model.compile(keras.optimizers.SGD(rate), LOSS)
    # What changes a weight at the start of an epoch comes after the stage has begun.
    order = [*callbacks, ours] if last else [ours, *callbacks]
    model.fit(X, Y, epochs=epochs, verbose=0, callbacks=[*order, Count()])
    return ours


@pytest.mark.parametrize("schedule", ["slow", {}, {1: "all"}])
def test_a_schedule_that_cannot_be(schedule):
    with pytest.raises(UserError, match=r"schedule is .*\{0: \"head\", 2: \"all\"\}"):
        GradualUnfreezing(schedule)


def steps_made():
    model = build()
    model.get_layer("base").trainable = False
    optimizer = LayerwiseAdamW(1e-2)
    model.compile(optimizer, LOSS)
    model.fit(X, Y, verbose=0)
    return optimizer, model


@pytest.mark.parametrize(
    ("schedule", "compiled", "message"),
    [
        ({0: "head", 3: "all"}, None, "epoch 3, counted from 0, but fit has epochs=3"),
        ({0: "head", 1: "last:7"}, None, "2 blocks"),
        ({0: "head", 1: "re:nothing"}, None, "nothing"),
        (
            {0: "head", 1: "all"},
            lambda: keras.optimizers.MultiOptimizer(
                keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))
            ),
            "cannot train a part",
        ),
        ({0: "head", 1: "all"}, lambda: keras.optimizers.Adam(use_ema=True), "use LayerwiseAdamW"),
    ],
)
def test_mistakes_are_found_before_the_first_step(schedule, compiled, message):
    model = build()
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        fit(model, quiet(schedule), compiled=compiled and compiled())
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("scaled", [False, True])
def test_an_update_over_the_end_of_an_epoch_is_refused(scaled):
    def fit_with(every, schedule, data=(X, Y)):
        model = build()
        optimizer = LayerwiseAdamW(1e-2, gradient_accumulation_steps=every)
        model.compile(keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer, LOSS)
        data = tf.data.Dataset.from_tensor_slices(data).batch(16)
        before = model.get_weights()
        try:
            model.fit(data, epochs=2, verbose=0, callbacks=[quiet(schedule)])
        finally:
            moved.append(not np.array_equal(before[-1], model.get_weights()[-1]))

    moved = []
    opens = {0: "head", 1: "all"}
    with pytest.raises(UserError, match=r"accumulation_steps=3, which does not divide 4 batches"):
        fit_with(3, opens)
    fit_with(2, opens)
    fit_with(3, {0: "head"})
    assert moved == [False, True, True]


def test_an_update_over_the_end_of_an_epoch_of_unknown_length_is_refused_at_its_end():
    model = build()
    model.compile(LayerwiseAdamW(1e-2, gradient_accumulation_steps=3), LOSS)
    data = tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: True).batch(16)
    with pytest.raises(UserError, match=r"accumulation_steps=3, which does not divide . batches"):
        model.fit(data, epochs=2, verbose=0, callbacks=[quiet({0: "head", 1: "all"})])


def test_an_optimiser_that_has_made_steps_without_what_is_to_open():
    optimizer, model = steps_made()
    with pytest.raises(UserError, match="has made 2 steps without 4 variables"):
        fit(model, quiet({0: "head", 1: "all"}), compiled=optimizer)
