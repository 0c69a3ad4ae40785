"""What Keras gets wrong under a strategy: each of these tells when it has been mended.

Then the mend in `tf_finetune.fit.distribution` can go.
"""

import os

import keras
import numpy as np
import tensorflow as tf

from tests.distribution.cases import CLASSES, CROSS_ENTROPY, NUMBERS, one_headed
from tf_finetune.fit.replicas import slice_of


def _compiled(model, **options):
    model.compile(keras.optimizers.SGD(0.1, **options), CROSS_ENTROPY, metrics=["accuracy"])
    return model


def _once(model, rows):
    """One step of Keras's own on replicas that have a part of some rows each."""
    batch = tf.constant(NUMBERS[:rows]), tf.constant(CLASSES[:rows])
    strategy = tf.distribute.get_strategy()
    model.optimizer.build(model.trainable_variables)
    model._symbolic_build(data_batch=batch)

    @tf.function
    def step():
        strategy.run(lambda whole: model.train_step(slice_of(whole)) and None, args=(batch,))

    step()
    return {f"weight/{i}": v.numpy() for i, v in enumerate(model.weights)}


def clipped_before():
    return _once(_compiled(one_headed(), global_clipnorm=0.1), rows=16)


def uneven():
    return _once(_compiled(one_headed()), rows=3)


def _fitted(data):
    model = _compiled(one_headed(), momentum=0.9)
    model.fit(data, verbose=0)
    return {f"weight/{i}": v.numpy() for i, v in enumerate(model.weights)}


def in_order():
    """Fit itself, in a case that Keras has right."""
    return _fitted(tf.data.Dataset.from_tensor_slices((NUMBERS[:16], CLASSES[:16])).batch(4))


def moved_on():
    """Fit, which builds the model with a batch: what trains is the order of the next epoch."""
    rows = tf.data.Dataset.from_tensor_slices((NUMBERS[:16], CLASSES[:16]))
    return _fitted(rows.shuffle(16, seed=1).batch(4))


def masks():
    """Dropout's masks of the replicas."""
    layer = keras.layers.Dropout(0.5, seed=0)
    strategy = tf.distribute.get_strategy()
    found = strategy.run(tf.function(lambda: layer(tf.ones([64]), training=True)))
    local = strategy.experimental_local_results(found)
    return {"same": np.array(all(np.array_equal(m, local[0]) for m in local))}


def _error(function):
    try:
        function()
    except Exception as error:
        return {"error": np.array(f"{type(error).__name__}: {error}"[:300])}
    return {"error": np.array("")}


def structure():
    """Fit, which builds the model with a pair of inputs and targets."""
    model = _compiled(one_headed())
    data = tf.data.Dataset.from_tensor_slices((NUMBERS[:16], CLASSES[:16])).batch(16)
    return _error(lambda: model.fit(data, verbose=0))


def single_numbers():
    """A step, which reduces its figures."""
    model = _compiled(one_headed())
    return _error(lambda: model.train_on_batch(NUMBERS[:16], CLASSES[:16]))


def several_steps():
    """Fit, with two steps in an execution."""
    model = one_headed()
    model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY, steps_per_execution=2)
    data = tf.data.Dataset.from_tensor_slices((NUMBERS[:16], CLASSES[:16])).batch(4)
    return _error(lambda: model.fit(data, verbose=0))


def no_layout():
    """What a variable knows of a keras.distribution that is set."""
    mesh = keras.distribution.DeviceMesh((1,), ["batch"], ["cpu:0"])
    keras.distribution.set_distribution(keras.distribution.DataParallel(mesh))
    try:
        variable = keras.layers.Dense(1)
        variable.build((None, 2))
        return {"kind": np.array(type(variable.kernel.value).__name__)}
    finally:
        keras.distribution.set_distribution(None)


def overlapping():
    """Rows that TensorFlow's own sharding gives two workers, shuffled without a seed."""
    tf.random.set_seed(os.getpid())
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = tf.data.Dataset.range(64).shuffle(64).batch(8).with_options(options)
    strategy = tf.distribute.get_strategy()
    batches = iter(strategy.experimental_distribute_dataset(data))
    local = [strategy.experimental_local_results(next(batches))[0] for _ in range(8)]
    return {"rows": np.concatenate([rows.numpy() for rows in local])}
