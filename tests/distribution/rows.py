"""How often each row of a data set trains a model, by what it did to a weight of its own."""

import os
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

from tf_finetune import Phase, UserError, fit_phases

ROWS = 37  # batches of 8, and one of 5
IDS = np.arange(ROWS, dtype="int32")[:, None]
TARGETS = np.arange(ROWS, dtype="int32")


@keras.saving.register_keras_serializable("tests")
class Sum(keras.losses.Loss):
    """Each row's own weight goes down by one with each update that it has a part in."""

    def __init__(self):
        super().__init__(reduction="sum")

    def call(self, y_true, y_pred):
        return y_pred[:, 0]


def counts(train, epochs=2, **options):
    inputs = keras.Input((1,), dtype="int32")
    table = keras.layers.Embedding(ROWS, 1, embeddings_initializer="zeros")
    model = keras.Model(inputs, keras.layers.Flatten()(table(inputs)))
    phase = Phase(train="all", epochs=epochs, schedule="constant", warmup=0.0, learning_rate=1.0)
    fit_phases(
        model,
        train,
        None,
        [phase],
        loss=Sum(),
        optimizer=keras.optimizers.SGD(1.0),
        batch_size=8,
        spike_guard=0,
        say=lambda line: None,
        **options,
    )
    return {"counts": -model.weights[0].numpy()[:, 0]}


def dataset():
    return tf.data.Dataset.from_tensor_slices((IDS, TARGETS))


def of_arrays():
    keras.utils.set_random_seed(0)
    return counts((IDS, TARGETS))


def of_a_dataset():
    return counts(dataset().batch(8))


def of_a_shuffled_dataset():
    return counts(dataset().shuffle(ROWS, seed=1).batch(8))


def of_files():
    with tempfile.TemporaryDirectory() as folder:
        for part in range(3):  # fewer files than some clusters have workers
            rows = range(part, ROWS, 3)
            pathlib.Path(folder, f"{part}.txt").write_text("".join(f"{i}\n" for i in rows))
        files = tf.data.Dataset.list_files(f"{folder}/*.txt", seed=0)
        lines = files.interleave(tf.data.TextLineDataset, num_parallel_calls=2, deterministic=True)
        rows = lines.map(lambda line: tf.strings.to_number(line, tf.int32))
        return counts(rows.map(lambda i: (i[None], i)).batch(8).repeat(), steps_per_epoch=5)


def of_records():
    """As TensorFlow Datasets reads them: interleaved shards, shuffled with a seed."""
    with tempfile.TemporaryDirectory() as folder:
        for part in range(2):
            with tf.io.TFRecordWriter(f"{folder}/{part}") as out:
                for i in range(part, ROWS, 2):
                    out.write(str(i).encode())
        shards = tf.data.Dataset.from_tensor_slices([f"{folder}/0", f"{folder}/1"])
        records = shards.interleave(tf.data.TFRecordDataset, cycle_length=2, deterministic=True)
        rows = records.map(lambda r: tf.strings.to_number(r, tf.int32)).shuffle(ROWS, seed=3)
        return counts(rows.map(lambda i: (i[None], i)).batch(8).repeat(), steps_per_epoch=5)


def of_a_generator():
    signature = tuple(tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in (IDS, TARGETS))

    def rows():
        for i in range(0, ROWS, 8):
            yield IDS[i : i + 8], TARGETS[i : i + 8]

    data = tf.data.Dataset.from_generator(rows, output_signature=signature)
    return counts(data.repeat(), steps_per_epoch=5)


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, i):
        return IDS[8 * i : 8 * i + 8], TARGETS[8 * i : 8 * i + 8]


def of_a_sequence():
    keras.utils.set_random_seed(0)
    return counts(Sequence())


def of_a_service():
    """Two servers read it; each row comes from one of them."""
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    servers = [service.WorkerServer(service.WorkerConfig(address)) for _ in range(2)]
    found = counts(dataset().batch(8), data_service=dispatcher.target)
    del servers
    return found


def unequal():
    """Every worker shuffles in its own way."""
    tf.random.set_seed(os.getpid())
    data = dataset().shuffle(ROWS).batch(8)
    try:
        fit_phases(
            keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]),
            data,
            None,
            [Phase(train="all")],
            loss="mse",
            say=lambda line: None,
        )
    except UserError as error:
        return {"said": np.array(str(error))}
    return {"said": np.array("")}


COUNTED = (
    of_arrays,
    of_a_dataset,
    of_a_shuffled_dataset,
    of_files,
    of_records,
    of_a_generator,
    of_a_sequence,
)
