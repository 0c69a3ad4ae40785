"""A worker that reduces numbers over all workers with TensorFlow, on and on."""

from __future__ import annotations

import os
import sys

from tf_finetune.cluster.join import joined
from tf_finetune.cluster.lost import LOST_STATUS, PeerLost
from tf_finetune.cluster.spec import read_cluster

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def run() -> None:
    cluster = read_cluster()
    assert cluster
    with joined(cluster, {}):
        import tensorflow as tf

        strategy = tf.distribute.MultiWorkerMirroredStrategy()

        def inner():
            value = tf.constant(cluster.index + 1.0)
            return tf.distribute.get_replica_context().all_reduce("SUM", value)

        step = tf.function(lambda: strategy.run(inner))
        print("sum", step().numpy(), flush=True)
        while True:
            step()


if __name__ == "__main__":
    try:
        run()
    except PeerLost as error:
        sys.exit(print(error, file=sys.stderr) or LOST_STATUS)
