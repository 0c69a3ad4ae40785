"""Phases for models of the user's own."""

import itertools
import math

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_backbone, tiny_preprocessor, tiny_texts
from tf_finetune import GradualUnfreezing, LayerwiseAdamW, Phase, UserError, fit_phases
from tf_finetune.fit import watching
from tf_finetune.fit.audit import AuditError
from tf_finetune.fit.objective import mode_of

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(96, 6)).astype("float32")
Y = (X[:, :2].sum(1) > 0).astype("int32")
TRAIN, HELD_OUT = (X[:64], Y[:64]), (X[64:], Y[64:])
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense(units, name, **options):
    return keras.layers.Dense(units, activation="relu", name=name, **options)


def functional(dropout=0.0):
    inputs = keras.Input((6,))
    x = inputs
    for i in range(3):
        x = dense(8, f"block_{i}_dense")(x)
        x = keras.layers.BatchNormalization(name=f"block_{i}_norm")(x)
        x = keras.layers.Dropout(dropout, name=f"block_{i}_dropout")(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))


def nested():
    base = keras.Sequential(
        [keras.Input((6,)), dense(8, "block_0"), dense(8, "block_1"), dense(8, "block_2")],
        name="base",
    )
    return keras.Sequential([keras.Input((6,)), base, keras.layers.Dense(2, name="logits")])


def lazy():
    return keras.Sequential([dense(8, "a"), dense(8, "b"), keras.layers.Dense(2, name="logits")])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = dense(8, "block_0"), dense(8, "block_1")
        self.logits = keras.layers.Dense(2, name="logits")

    def call(self, x):
        return self.logits(self.second(self.first(x)))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    @property
    def num_batches(self):
        return 4

    def __getitem__(self, i):
        return X[i * 16 : i * 16 + 16], Y[i * 16 : i * 16 + 16]


def batches(repeat=1):
    return tf.data.Dataset.from_tensor_slices(TRAIN).batch(16).repeat(repeat)


def fit(model, *phases, train=TRAIN, validation=HELD_OUT, **options):
    options = {"loss": LOSS, "metrics": ["accuracy"], "batch_size": 16} | options
    return fit_phases(model, train, validation, phases, say=lambda line: None, **options)


@pytest.mark.parametrize("build", [functional, nested, lazy, Subclassed])
def test_head_then_all(build):
    keras.utils.set_random_seed(0)
    model = build()
    model(X[:1])
    before = {v.path: v.numpy() for v in model.weights}

    def moved():
        return {v.path for v in model.weights if not np.array_equal(v, before[v.path])}

    fit(model, Phase(train="head", epochs=2, learning_rate=1e-2))
    assert {path.split("/")[-2] for path in moved()} == {"logits"}
    result = fit(
        model,
        Phase(train="head", learning_rate=1e-2),
        Phase(train="all", epochs=3, learning_rate=1e-2),
    )
    norms = {path for path in before if "_norm/" in path}  # frozen by default
    assert moved() == set(before) - norms
    assert [(row["phase"], row["epoch"]) for row in result.history] == [
        *(("head", 1), ("all", 2), ("all", 3), ("all", 4)),
    ]
    head, tune = result.phases
    assert head.trainable == 8 * 2 + 2
    assert tune.audit.frozen_unchanged == len(norms)


def test_a_keras_hub_task_takes_strings():
    task = keras_hub.models.BertTextClassifier(
        tiny_backbone(num_layers=2), num_classes=2, preprocessor=tiny_preprocessor()
    )
    texts, labels = tiny_texts(64)
    before = {v.path: v.numpy() for v in task.weights}
    result = fit(
        task,
        Phase(train="head", epochs=2, learning_rate=1e-2),
        Phase(train="last:1", epochs=8, learning_rate=1e-2),
        train=(np.array(texts[:48]), labels[:48]),
        validation=(np.array(texts[48:]), labels[48:]),
    )
    moved = {v.path.split("/")[0] for v in task.weights if not np.array_equal(v, before[v.path])}
    assert moved == {"transformer_layer_1", "pooled_dense", "logits"}
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("train", [TRAIN, batches(), Batches(), batches(None)], ids=type)
def test_what_it_takes_as_data(train):
    endless = isinstance(train, tf.data.Dataset) and train.cardinality() < 0
    model = nested()
    result = fit(
        model,
        Phase(epochs=2, learning_rate=1e-2),
        train=train,
        validation=tf.data.Dataset.from_tensor_slices(HELD_OUT).batch(16),
        steps_per_epoch=4 if endless else None,
    )
    assert [row["step"] for row in result.history] == [4, 8]
    assert int(model.optimizer.iterations.numpy()) == 8


def test_a_recipe_by_its_name():
    """With as many blocks, epochs and updates as the model and its data have."""
    given = {"loss": LOSS, "batch_size": 16, "say": lambda line: None}
    result = fit_phases(nested(), TRAIN, HELD_OUT, "gradual", **given)
    assert [(phase.name, phase.train) for phase in result.phases] == [
        *(("probe", "head"), ("open 1", "last:1"), ("open 2", "last:2"), ("open 3", "last:3")),
        ("tune", "all"),
    ]
    assert [len(phase.history) for phase in result.phases] == [50, 1, 1, 1, 20]
    with pytest.raises(UserError, match=r'phases is "gradul"; allowed.*Did you mean "gradual"'):
        fit_phases(nested(), TRAIN, HELD_OUT, "gradul", **given)


class Counted(keras.utils.PyDataset):
    """Its batches depend on how often it was read."""

    def __init__(self):
        super().__init__()
        self.read = 0

    def __len__(self):
        return 4

    def __getitem__(self, i):
        self.read += 1
        return X[i : i + 16] * self.read, Y[i : i + 16]


def used_up(width=6):
    """Batches that can be read once, by whoever comes first."""
    batches = iter([(X[i : i + 16], Y[i : i + 16]) for i in range(0, 64, 16)])
    signature = (tf.TensorSpec((None, width)), tf.TensorSpec((None,), tf.int32))
    data = tf.data.Dataset.from_generator(lambda: batches, output_signature=signature)
    return data.apply(tf.data.experimental.assert_cardinality(4))


@pytest.mark.parametrize("make", [Counted, used_up, lambda: batches().shuffle(4)])
def test_a_model_that_the_first_batch_builds_trains_on_that_batch_too(make):
    def weights(built):
        keras.utils.set_random_seed(0)
        model, train = lazy(), make()
        if built:
            model(X[:1])
        fit(model, Phase(), train=train, validation=None, loss=lambda y, x: LOSS(y, x))
        return model.get_weights()

    for built, by_data in zip(weights(True), weights(False), strict=True):
        np.testing.assert_array_equal(by_data, built)


def test_data_that_do_not_say_what_a_model_needs():
    with pytest.raises(UserError, match=r"has no weights yet, and train does not say .*call it on"):
        fit(lazy(), Phase(), train=used_up(None))
    tf_data = batches().map(lambda x, y: (tf.reshape(x, tf.shape(x)), y))  # of unknown shape
    model = lazy()
    fit(model, Phase(), train=tf_data, validation=None)
    assert model.weights[0].shape == (6, 8)


@pytest.mark.parametrize(
    ("optimizer", "stock"),
    [
        (None, keras.optimizers.Adam),
        (keras.optimizers.Adam(), keras.optimizers.Adam),
        (
            keras.optimizers.SGD(momentum=0.9),
            lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
        ),
        (keras.optimizers.Nadam(), keras.optimizers.Nadam),
    ],
    ids=["default", "Adam", "SGD", "Nadam"],
)
def test_two_phases_alike_equal_one_plain_fit(optimizer, stock):
    """Momentum, step counts and the schedule's position are carried over."""
    ours = nested()
    plain = keras.models.clone_model(ours)
    plain.set_weights(ours.get_weights())
    phase = Phase(train="all", epochs=2, learning_rate=1e-2, schedule="constant", warmup=0.0)
    fit(
        ours,
        *(phase, phase),
        train=batches(),
        validation=None,
        optimizer=optimizer,
        **({} if optimizer else {"weight_decay": 0.0, "clip": 0.0}),
    )
    plain.compile(stock(1e-2), LOSS)
    plain.fit(batches(), epochs=4, shuffle=False, verbose=0)
    for a, b in zip(ours.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=3e-6, err_msg=a.path)


@pytest.mark.parametrize(
    "make",
    [
        lambda rate=0.1: keras.optimizers.SGD(rate, momentum=0.9),
        keras.optimizers.Adam,
        keras.optimizers.Nadam,
        keras.optimizers.Adafactor,
    ],
    ids=["SGD", "Adam", "Nadam", "Adafactor"],
)
def test_a_stock_optimiser_goes_on_while_more_and_less_trains(make):
    """Beside a layer that comes and goes, the other trains as by itself."""
    inputs = keras.Input((6,))
    one, two = (keras.layers.Dense(2, name=name)(inputs) for name in ("one", "two"))
    model, alone = keras.Model(inputs, [one, two]), keras.Model(inputs, one)
    start = model.get_weights()
    given = {"learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0}
    data = tf.data.Dataset.from_tensor_slices((X[:64], (Y[:64], Y[:64]))).batch(16)
    fit(
        model,
        *(Phase(**given, train=f"re:{name}") for name in ("one", "(one|two)", "one")),
        train=data,
        validation=None,
        loss=[LOSS, LOSS],
        metrics=None,
        optimizer=make(),
        backbone=None,
    )
    ours = model.get_weights()
    model.set_weights(start)
    alone.compile(make(1e-2), LOSS)
    alone.fit(batches(), epochs=3, shuffle=False, verbose=0)
    for a, b in zip(ours[:2], alone.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not np.array_equal(ours[2], start[2])


def test_what_is_excluded_from_decay_stays_so():
    optimizer = keras.optimizers.AdamW(weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["logits"])
    ours = nested()
    plain = keras.models.clone_model(ours)
    plain.set_weights(ours.get_weights())
    given = {"learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0}
    fit(ours, Phase(**given), train=batches(), validation=None, optimizer=optimizer)
    stock = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    stock.exclude_from_weight_decay(var_names=["logits"])
    plain.compile(stock, LOSS)
    plain.fit(batches(), epochs=1, shuffle=False, verbose=0)
    for a, b in zip(ours.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)


def test_momentum_goes_to_its_own_variable_where_paths_repeat():
    def tower(name):
        inputs = keras.Input((6,))
        return keras.Model(inputs, dense(8, "same")(inputs), name=name)

    inputs = keras.Input((6,))
    left, right = tower("left"), tower("right")
    x = keras.layers.Concatenate()([left(inputs), right(inputs)])
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    assert left.weights[0].path == right.weights[0].path
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    given = {"epochs": 1, "learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0}
    fit(
        model,
        *(Phase(**given, train="all"), Phase(**given, train="all")),
        train=batches(),
        validation=None,
        optimizer=keras.optimizers.SGD(momentum=0.9),
    )
    plain.compile(keras.optimizers.SGD(1e-2, momentum=0.9), LOSS)
    plain.fit(batches(), epochs=2, shuffle=False, verbose=0)
    for a, b in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6, err_msg=a.path)


def test_it_ends_with_the_best_epoch_and_without_validation_with_the_last():
    model = functional()
    result = fit(model, Phase(train="all", epochs=6, learning_rate=0.1), monitor="val_accuracy")
    best = result.phases[0].best_epoch
    found = model.evaluate(*HELD_OUT, verbose=0, return_dict=True)
    expected = result.history[best - 1]["val_accuracy"]
    assert best
    assert expected == max(row["val_accuracy"] for row in result.history)
    assert found["accuracy"] == pytest.approx(expected)
    result = fit(model, Phase(epochs=2, learning_rate=1e-3), validation=None)
    assert result.phases[0].best_epoch == 2
    assert "val_loss" not in result.history[0]


def test_a_users_metric_does_not_count_on_from_the_phase_before():
    keras.utils.set_random_seed(0)
    model = functional()
    metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    phase = Phase(epochs=6, learning_rate=0.5, schedule="constant")
    first, second = fit(model, phase, phase, metrics=[metric], monitor="val_accuracy").phases
    # The last epoch, which the metric has seen last, is not the one that was kept.
    assert first.history[-1]["val_accuracy"] < first.figures["val_accuracy"]
    assert second.start["val_accuracy"] == first.figures["val_accuracy"]


def test_a_phase_that_makes_nothing_better_leaves_the_weights():
    model = nested()
    fit(model, Phase(train="all", epochs=10, learning_rate=1e-2))
    before = model.get_weights()
    (phase,) = fit(model, Phase(train="all", epochs=2, learning_rate=10.0), clip=0.0).phases
    assert phase.best_epoch == 0
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(("policy", "moves"), [("freeze", set()), ("update", {2})])
def test_statistics_of_batch_normalization(policy, moves):
    model = functional()
    before = {v.path: v.numpy() for v in model.weights}
    # Without validation, or a last epoch that is worse than the start would be undone.
    fit(model, Phase(train="last:1", learning_rate=1e-2, batch_norm=policy), validation=None)
    moved = {v.path for v in model.weights if not np.array_equal(v, before[v.path])}
    assert {path for path in moved if "moving" in path} == {
        f"block_{i}_norm/moving_{name}" for i in moves for name in ("mean", "variance")
    }
    assert ("block_2_norm/gamma" in moved) == (policy == "update")


def test_dropout_is_off_where_nothing_trains_and_on_again_afterwards():
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen[epoch] = [self.model.get_layer(f"block_{i}_dropout").rate for i in range(3)]

    model = functional(dropout=0.4)
    fit(
        model,
        Phase(train="head"),
        Phase(train="last:1"),
        Phase(train="all"),
        callbacks=[Look()],
    )
    assert seen == {0: [0, 0, 0], 1: [0, 0, 0.4], 2: [0.4] * 3}
    assert model.get_layer("block_0_dropout").rate == 0.4


def test_layer_decay_slows_the_lower_blocks_down():
    model = nested()
    before = {v.path: v.numpy() for v in model.weights}
    phase = Phase(learning_rate=1e-3, schedule="constant", warmup=0.0, layer_decay=0.5)
    fit(model, phase, train=(X[:16], Y[:16]), validation=None, weight_decay=0.0)
    # Adam's first step is the rate itself wherever there is a gradient.
    kernels = [v for v in model.weights if v.path.endswith("kernel")]
    rates = [np.abs(v.numpy() - before[v.path]).max() for v in kernels]
    ratios = [b / a for a, b in itertools.pairwise(rates)]
    np.testing.assert_allclose(ratios[:2], 2.0, rtol=1e-2)
    assert rates[-1] == pytest.approx(1e-3, rel=1e-2)


def test_plateau_halves_the_rate():
    result = fit(
        nested(),
        Phase(epochs=6, learning_rate=5.0, schedule="plateau"),
        optimizer=keras.optimizers.SGD(),
    )
    rates = {row["learning_rate"] for row in result.history}
    assert max(rates) == 5.0
    assert min(rates) < 5.0
    assert all(math.log2(5.0 / rate).is_integer() for rate in rates)


def test_plateau_in_a_later_phase_begins_with_its_own_rate():
    result = fit_phases(
        nested(),
        TRAIN,
        HELD_OUT,
        [
            Phase(train="head", epochs=1, learning_rate=1e-2),
            Phase(epochs=2, learning_rate=1e-3, schedule="plateau"),
        ],
        loss=LOSS,
        optimizer=keras.optimizers.Adam(),
        say=lambda line: None,
    )
    assert result.phases[1].history[0]["learning_rate"] == pytest.approx(1e-3)


def test_something_that_does_not_move_is_told_of_and_all_of_it_is_an_error():
    inputs = keras.Input((6,))
    x = keras.layers.Concatenate()([dense(8, "dead")(inputs), dense(8, "alive")(inputs)])
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    model.get_layer("dead").set_weights([np.zeros((6, 8)), -np.ones(8)])
    said = []
    fit_phases(
        model,
        TRAIN,
        phases=[Phase(learning_rate=1e-2)],
        loss=LOSS,
        optimizer=keras.optimizers.SGD(),
        say=said.append,
    )
    assert "2 were to train but did not move: dead/bias, dead/kernel" in said[-1]
    with pytest.raises(AuditError, match="did not move"):
        fit(nested(), Phase(train="head", learning_rate=1e-60), optimizer=keras.optimizers.SGD())


def test_users_callbacks_see_epochs_that_count_on():
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, self.params["epochs"]))

    fit(nested(), Phase(train="head", epochs=2), Phase(), callbacks=[Look()])
    assert seen == [(0, 2), (1, 2), (2, 3)]


ONE = Phase(train="head")


@pytest.mark.parametrize(
    ("phases", "options", "message"),
    [
        ([], {}, "phases is .*; give a recipe's name or a list of Phase"),
        (["head"], {}, r"phases\[0\] is 'head'; it must be a Phase"),
        ([Phase(learning_rate=-1.0)], {}, r"phases\[0\].learning_rate is -1"),
        ([Phase(train="hat")], {}, r'phases\[0\].train is "hat"'),
        ([Phase(schedule="cosin")], {}, 'Did you mean "cosine"'),
        ([Phase(train="last:9")], {}, "3 blocks"),
        ([Phase(train="re:nothing")], {}, "re:nothing"),
        ([ONE], {"mode": "most"}, 'mode is "most"'),
        ([ONE], {"monitor": "accuracy"}, 'monitor is "accuracy"; it must be val_loss'),
        ([ONE], {"train": iter([])}, "train is a list_iterator; give a batched"),
        ([ONE], {"train": batches(None)}, "give steps_per_epoch"),
        ([ONE], {"train": batches().take(0)}, "train is empty"),
        ([ONE], {"steps_per_epoch": 0}, "steps_per_epoch is 0"),
        ([Phase(patience=1)], {"validation": None}, "has patience, but there is no validation"),
        ([Phase(schedule="plateau")], {"validation": None}, "but there is no validation"),
        ([ONE], {"validation": None, "monitor": "val_accuracy"}, "there is no validation"),
        ([ONE], {"validation": batches(None)}, "validation has no end"),
        ([Phase(patience=1)], {"validation": batches().take(0)}, "validation is empty"),
        ([ONE], {"validation": iter([])}, "validation is a list_iterator"),
        ([ONE], {"optimizer": keras.optimizers.SGD(use_ema=True)}, "with use_ema=True, whose"),
        ([ONE], {"callbacks": [GradualUnfreezing()]}, "holds a GradualUnfreezing"),
        ([ONE], {"callbacks": [keras.callbacks.ReduceLROnPlateau()]}, 'set schedule="plateau"'),
        ([ONE], {"optimizer": "adam"}, "optimizer is str; give one keras.optimizers"),
        (
            [ONE],
            {"optimizer": keras.optimizers.LossScaleOptimizer(LayerwiseAdamW())},
            "give the optimiser inside it",
        ),
    ],
)
def test_mistakes_are_found_before_anything_trains(phases, options, message):
    model = nested()
    before = model.get_weights()
    with pytest.raises(UserError, match=message):
        fit(model, *phases, **options)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_monitor_that_no_metric_has_is_refused():
    with pytest.raises(UserError, match=r'monitor is "val_recall".*val_accuracy, val_loss'):
        fit(nested(), ONE, monitor="val_recall")


def test_a_phase_that_diverges_says_so():
    x = np.full((16, 6), np.nan, "float32")
    for guard, message in ((3, "halved 3 times"), (0, "its loss is no number")):
        model = nested()
        before = model.get_weights()
        with pytest.raises(UserError, match=f"phase all, .*training has diverged.*{message}"):
            fit(
                model,
                Phase(),
                train=(x, Y[:16]),
                validation=None,
                batch_size=2,
                spike_guard=guard,
            )
        assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("max", "accuracy mean_io_u binary_io_u pearson_correlation sensitivity_at_specificity"),
        ("max", "f1_score auc r2_score cosine_similarity dice"),
        ("min", "loss auction_loss account_loss mean_absolute_error kl_divergence perplexity"),
    ],
)
def test_whether_more_is_better_is_told_by_the_name(mode, names):
    assert [mode_of(f"val_{name}") for name in names.split()] == [mode] * len(names.split())


def test_a_name_that_does_not_tell_is_asked_about():
    with pytest.raises(UserError, match=r'"val_kappa", whose name does not tell.*set mode'):
        mode_of("val_kappa")


def test_an_epoch_of_a_data_set_that_ends_is_whole_each_time():
    data = tf.data.Dataset.from_tensor_slices(TRAIN).filter(lambda x, y: True).batch(16)
    result = fit(nested(), Phase(epochs=4, learning_rate=1e-3), train=data, steps_per_epoch=4)
    assert [row["step"] for row in result.history] == [4, 8, 12, 16]


def test_the_guard_knows_the_loss_of_rows_that_are_not_trained_on(monkeypatch):
    made, guard = [], watching.SpikeGuard

    def seen(*args, least, **options):
        made.append(least)
        return guard(*args, least=least, **options)

    monkeypatch.setattr(watching, "SpikeGuard", seen)
    result = fit(nested(), Phase(train="head"), Phase())
    assert made == [phase.start["val_loss"] for phase in result.phases]
