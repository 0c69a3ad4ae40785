"""One process: runs cases under a strategy, and writes what they come to into a file.

    python -m tests.distribution.worker STRATEGY FILE MODULE.CASE...

A case of `whole_runs` makes the strategy itself; others are run in its scope.
"""

import importlib
import os
import sys
import traceback

import numpy as np


def main(strategy, file, *names):
    cases = [name.split(".") for name in names]
    assert len({name for _, name in cases}) == len(cases)  # or one would hide the other
    found = {}
    if all(module == "whole_runs" for module, _ in cases):
        for _, name in cases:
            found[name] = getattr(_module("whole_runs"), name)(strategy)
    else:
        with _strategy(strategy).scope():
            for module, name in cases:
                found[name] = getattr(_module(module), name)()
    np.savez(
        file, **{f"{name}/{k}": v for name, arrays in found.items() for k, v in arrays.items()}
    )


def _strategy(name):
    """As `strategy_of`; `two_by_two` is `multi_worker` with two devices in each process.

    TensorFlow offers that with GPUs only.
    """
    from tf_finetune.fit.strategy import strategy_of

    if name != "two_by_two":
        return strategy_of(name)
    import tensorflow as tf
    from tensorflow.python.distribute import collective_all_reduce_strategy as theirs

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    theirs.CollectiveAllReduceExtended._initialize_local_devices = lambda self, resolver, worker: (
        tuple(f"{worker}/device:CPU:{i}" for i in range(2)),
        "CPU",
    )
    return strategy_of("multi_worker")


def _module(name):
    return importlib.import_module(f"tests.distribution.{name}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # or it would wait for the others
