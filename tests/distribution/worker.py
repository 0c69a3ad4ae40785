"""One process: runs cases under a strategy, and writes what they come to into a file.

    python -m tests.distribution.worker STRATEGY FILE MODULE CASE...

A case of `whole_runs` makes the strategy itself; others are run in its scope.
"""

import contextlib
import importlib
import sys

import numpy as np


def main(strategy, file, module, *names):
    cases = importlib.import_module(module)
    arrays, whole = {}, module.endswith("whole_runs")
    scope, given = contextlib.nullcontext(), (strategy,)
    if not whole:
        from tf_finetune.fit.strategy import strategy_of

        scope, given = strategy_of(strategy).scope(), ()
    with scope:
        for name in names:
            arrays |= {f"{name}/{k}": v for k, v in getattr(cases, name)(*given).items()}
    np.savez(file, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
