"""One worker of two, which gets SIGTERM after the strategy is made: ours, or TensorFlow's own.

python -m tests.distribution.signalled ours|theirs
"""

import os
import signal
import sys
import time

import tensorflow as tf

from tf_finetune.fit.strategy import strategy_of


def main(whose):
    heard = []
    signal.signal(signal.SIGTERM, lambda *_: heard.append("heard"))
    if whose == "ours":
        strategy = strategy_of("multi_worker")
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)  # a handler of Python runs as soon as it may
    print("SIGTERM was", *heard or ["lost"], flush=True)
    # Neither leaves before the other has come.
    strategy.gather(tf.constant([0]), axis=0)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
