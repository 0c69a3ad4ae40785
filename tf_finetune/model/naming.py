"""A name of its own for each variable of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import keras


def variable_names(variables: Sequence[keras.Variable]) -> list[str]:
    """The paths; where one occurs again it is called `path#2`, then `path#3`."""
    seen: Counter[str] = Counter()
    names = []
    for variable in variables:
        seen[variable.path] += 1
        count = seen[variable.path]
        names.append(variable.path if count == 1 else f"{variable.path}#{count}")
    return names
