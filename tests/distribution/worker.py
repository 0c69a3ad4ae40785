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
    found = {}
    if all(module == "whole_runs" for module, _ in cases):
        for _, name in cases:
            found[name] = getattr(_module("whole_runs"), name)(strategy)
    else:
        from tf_finetune.fit.strategy import strategy_of

        with strategy_of(strategy).scope():
            for module, name in cases:
                found[name] = getattr(_module(module), name)()
    np.savez(
        file, **{f"{name}/{k}": v for name, arrays in found.items() for k, v in arrays.items()}
    )


def _module(name):
    return importlib.import_module(f"tests.distribution.{name}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # or it would wait for the others
