"""Trainings whose outcome is compared between one device, several devices and several hosts."""

from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from tests.tiny import two_headed
from tf_finetune import LayerwiseAdamW, Phase, UserError, fit_phases
from tf_finetune.fit import planned_cuts
from tf_finetune.fit.audit import AuditError
from tf_finetune.fit.distribution import check_alike
from tf_finetune.fit.feature_cache import FeatureStore, outputs_of
from tf_finetune.fit.replicas import on_all_replicas, slice_of
from tf_finetune.fit.totals import put, value_here

RANDOM = np.random.default_rng(0)
ROWS = 71  # batches of 16, and one of 7
IDS = RANDOM.integers(0, 11, (ROWS, 5)).astype("int32")
NUMBERS = RANDOM.normal(size=(ROWS, 3)).astype("float32")
CLASSES = RANDOM.integers(0, 3, ROWS).astype("int32")
VALUES = RANDOM.normal(size=(ROWS, 2)).astype("float32")
WEIGHTS = RANDOM.uniform(0.1, 2.0, ROWS).astype("float32")
CROSS_ENTROPY = "sparse_categorical_crossentropy"


def batches(*arrays, size=16):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


def found(model, history):
    """Weights, and what each epoch came to, as arrays by name."""
    arrays = {f"weight/{i}": v.numpy() for i, v in enumerate(model.weights)}
    for number, row in enumerate(history):
        for name, value in row.items():
            if isinstance(value, float) and name not in ("seconds", "examples_per_second"):
                arrays[f"history/{number}/{name}"] = np.float64(value)
    return arrays


def one_headed(*more):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, "tanh"), *more, keras.layers.Dense(3, "softmax")]
    return keras.Sequential([keras.Input((3,)), *layers])


def trained(model, train, optimizer=None, epochs=3, rate=0.1, validation=None, **options):
    phase = Phase(
        train=options.pop("select", "all"), epochs=epochs, learning_rate=rate, batch_norm="update"
    )
    options.setdefault("loss", CROSS_ENTROPY)
    options.setdefault("metrics", ["accuracy"])
    options.setdefault("say", lambda line: None)
    fitted = fit_phases(model, train, validation, [phase], optimizer=optimizer, **options)
    return found(model, fitted.history)


def sgd():
    """Clipped so tightly that it counts whether gradients are clipped before they are added up."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1)
    held = batches(NUMBERS[:19], CLASSES[:19])
    return trained(one_headed(), batches(NUMBERS, CLASSES), optimizer, validation=held)


def adamw():
    held = batches(NUMBERS[:17], CLASSES[:17], WEIGHTS[:17])
    data = batches(NUMBERS, CLASSES, WEIGHTS)
    return trained(one_headed(), data, rate=1e-2, validation=held, clip=0.3)


def few_rows():
    """Batches of 9, the last of one row, which only one replica has."""
    data = batches(NUMBERS[:19], CLASSES[:19], size=9)
    return trained(one_headed(), data, rate=1e-2, validation=data)


def few_rows_in_parts():
    """The same, where the replica without rows is to divide them."""
    data = batches(NUMBERS[:19], CLASSES[:19], size=9)
    return trained(one_headed(), data, rate=1e-2, validation=data, micro_batch=3)


def two_outputs():
    squares = keras.losses.MeanSquaredError(reduction="sum")
    x, y = {"i": IDS, "n": NUMBERS}, {"a": CLASSES, "b": VALUES}
    data = batches(x, y, {"a": WEIGHTS, "b": WEIGHTS[::-1].copy()})
    return trained(
        two_headed(),
        data,
        rate=1e-2,
        validation=data,
        loss={"a": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "b": squares},
        metrics={"a": ["accuracy"], "b": ["mae"]},
    )


def parts():
    """Micro-batches, which do not divide a replica's rows, averaged weights and a guard."""
    data = batches(NUMBERS, CLASSES)
    return trained(one_headed(), data, rate=1e-2, validation=data, micro_batch=3, ema=0.9, clip=0.3)


def executions():
    """Two batches at a time, of five."""
    data = batches(NUMBERS, CLASSES)
    return trained(one_headed(), data, rate=1e-2, validation=data, steps_per_execution=2)


def layer_wise():
    """Rates of layers, a warm-up of each, and averaged weights."""
    optimizer = LayerwiseAdamW(
        1e-2, multipliers=[("bias$", 3.0), ("kernel$", 0.3)], warmup_steps=3, global_clipnorm=0.3
    )
    data = batches(NUMBERS, CLASSES)
    return trained(one_headed(), data, optimizer, rate=1e-2, validation=data, ema=0.8)


def gone_back():
    """A guard undoes what a batch did that only one replica had the bad row of."""
    numbers = NUMBERS.copy()
    numbers[50] = np.inf  # the fourth batch of five
    said = []
    arrays = trained(one_headed(), batches(numbers, CLASSES), rate=1e-2, ema=0.9, say=said.append)
    return arrays | {"said": np.array([line for line in said if "went back" in line])}


def put_back():
    """Trains as `adamw`, while what metrics have come to is read, lost and put back."""
    held = batches(NUMBERS[:17], CLASSES[:17], WEIGHTS[:17])
    model = one_headed()

    def lose(batch, logs):
        kept = [value_here(v).numpy() for v in model.metrics_variables]
        for variable in model.metrics_variables:
            variable.assign(np.full(variable.shape, 77.0))
        for variable, array in zip(model.metrics_variables, kept, strict=True):
            put(variable, array)

    return trained(
        model,
        batches(NUMBERS, CLASSES, WEIGHTS),
        rate=1e-2,
        validation=held,
        clip=0.3,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=lose)],
    )


def norms():
    layer = keras.layers.BatchNormalization(synchronized=True, momentum=0.5)
    data = batches(NUMBERS, CLASSES)
    optimizer = keras.optimizers.SGD(0.1, clipnorm=0.2)
    return trained(one_headed(layer), data, optimizer, validation=data)


def dropout():
    """Equal on all workers, though not on any number of them."""
    return trained(one_headed(keras.layers.Dropout(0.5)), batches(NUMBERS, CLASSES), r_drop=1.0)


def mixed():
    """Each replica mixes its own rows, by numbers of its own."""
    return trained(one_headed(), batches(NUMBERS, CLASSES), rate=1e-2, mixup=1.0)


def outputs():
    """What a model gives for rows, in their order, with a last batch of one row."""
    store = FeatureStore(NUMBERS)
    rows = np.random.default_rng(1).permutation(ROWS)[:33]
    return {"outputs": outputs_of(one_headed(), store, rows, batch_size=16)}


def gathered():
    """Rows of every type that is kept of a frozen part, of batches of nine and of one."""

    def function(x):
        types = {"bfloat16": tf.bfloat16, "float16": tf.float16, "float32": tf.float32}
        return {name: tf.cast(x, dtype) for name, dtype in types.items()} | {"mask": x > 0}

    together = tf.function(on_all_replicas(function), autograph=False)
    arrays = {}
    for size in (9, 1):
        for name, tensor in together(tf.constant(NUMBERS[:size])).items():
            arrays[f"{name}/{size}"] = tf.cast(tensor, tf.float32).numpy()
    return arrays


def kept():
    """The head of a user's own model, on what its frozen part gives for arrays."""
    said = []
    # Or so small a model would not be cut.
    with mock.patch.object(planned_cuts, "_A_BYTE", {"CPU": 0, "GPU": 0}):
        arrays = trained(
            one_headed(),
            (NUMBERS, CLASSES),
            rate=1e-2,
            select="head",
            validation=(NUMBERS[:17], CLASSES[:17]),
            batch_size=16,
            cache=True,
            say=said.append,
        )
    return arrays | {"said": np.array([line for line in said if "trains on kept" in line])}


def diverged():
    """What is said where a layer has changed a variable of its own by the rows of a replica."""
    model = one_headed(keras.layers.BatchNormalization(momentum=0.5))
    replica = tf.distribute.get_strategy().run(lambda: model(_own_rows(), training=True))
    del replica
    try:
        check_alike(model)
    except AuditError as error:
        return {"said": np.array(str(error))}
    return {"said": np.array("")}


def _own_rows():
    return slice_of(tf.constant(NUMBERS))


def overflow():
    """In half precision, with rows whose scaled gradients are too large for it."""
    numbers, classes = NUMBERS.copy(), CLASSES.copy()
    numbers[16:18] = 3000.0
    classes[16:18] = 0, 1  # one of them will be wrong
    keras.utils.set_random_seed(0)
    half = keras.layers.Dense(8, dtype="mixed_float16", kernel_initializer="random_normal")
    model = keras.Sequential([keras.Input((3,)), half, keras.layers.Dense(3)])
    steps = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: steps.append(int(model.optimizer.iterations.numpy()))
    )
    optimizer = keras.optimizers.SGD(0.1, global_clipnorm=0.1)
    arrays = trained(
        model,
        batches(numbers, classes),
        optimizer,
        epochs=2,
        callbacks=[watch],
        spike_guard=0,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return {k: v for k, v in arrays.items() if "history" not in k} | {"steps": np.array(steps)}


REFUSED = {
    "unsynchronised": "synchronized=True",
    "own_step": "train_step of its own",
    "mean_by_weight": "train on one device",
    "added_loss": "add_loss",
}


def _said(model, **options):
    try:
        trained(model, batches(NUMBERS, CLASSES), epochs=1, **options)
    except UserError as error:
        return {"said": np.array(str(error))}
    return {"said": np.array("")}


def unsynchronised():
    return _said(one_headed(keras.layers.BatchNormalization()))


def own_step():
    class Own(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    return _said(Own(one_headed().layers))


def mean_by_weight():
    mean = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    return _said(one_headed(), loss=mean)


def added_loss():
    class Adds(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.mean(x * x))
            return x

    return _said(one_headed(Adds()))


PARITY = (
    sgd,
    adamw,
    few_rows,
    few_rows_in_parts,
    two_outputs,
    parts,
    executions,
    layer_wise,
    norms,
    kept,
)
ALL = (
    *PARITY,
    dropout,
    mixed,
    gone_back,
    put_back,
    outputs,
    gathered,
    diverged,
    overflow,
    unsynchronised,
    own_step,
    mean_by_weight,
    added_loss,
)
