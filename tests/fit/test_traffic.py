"""Bytes of an update, beside the gradients themselves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_task, tiny_texts
from tf_finetune.fit.traffic import efficiency, reduced_bytes
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import set_trainable
from tf_finetune.model.lora import add_lora


@pytest.mark.parametrize("train", ["head", "lora", "last:1", "all"])
def test_bytes_are_those_of_the_gradients(train):
    task = tiny_task()
    if train == "lora":
        add_lora(task.network, 2, 4.0, backbone=task.backbone)
    set_trainable(layer_groups(task.network, task.backbone), train)
    batch = task.preprocessor(tiny_texts(4)[0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(task.network(batch, training=True))
    found = [g for g in tape.gradient(loss, task.network.trainable_variables) if g is not None]
    size = 0
    for g in found:
        if isinstance(g, tf.IndexedSlices):
            size += keras.ops.size(g.values) * 4 + keras.ops.size(g.indices) * 8
        else:
            size += keras.ops.size(g) * 4
    tokens = np.asarray(batch["token_ids"]).size
    assert reduced_bytes(task.network, tokens) == int(size)


def test_efficiency_by_the_link():
    assert efficiency(1.0, 125_000_000, hosts=1, gigabits=1.0) == 1.0
    assert efficiency(1.0, 125_000_000, hosts=2, gigabits=1.0) == 0.5
    assert efficiency(1.0, 125_000_000, hosts=4, gigabits=1.5) == 0.5
