"""One process: runs cases under a strategy, and writes what they come to into a file.

    python -m tests.distribution.worker STRATEGY FILE MODULE CASE...
"""

import importlib
import sys

import numpy as np

from tf_finetune.fit.strategy import strategy_of


def main(strategy, file, module, *names):
    scope = strategy_of(strategy).scope()
    cases = importlib.import_module(module)
    arrays = {}
    with scope:
        for name in names:
            arrays |= {f"{name}/{key}": value for key, value in getattr(cases, name)().items()}
    np.savez(file, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
