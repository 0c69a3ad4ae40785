"""Which share of the learning rate each variable has."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tf_finetune.errors import UserError

# What is matched, a regular expression on the path or a variable itself, and a factor.
Pairs = Sequence[tuple[str | keras.Variable, float]]


class Multipliers:
    """What each variable's rate is multiplied by: the first match counts, else 1.

    Args:
        pairs: what is matched, and the factor. A string is searched for in the path
            as a regular expression; or it is one of those that `config` writes,
            `=PLACE:PATH`.

    Raises:
        UserError: for what is no such pair, or a factor that is not finite and at
            least 0.
    """

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = [_checked(index, pair) for index, pair in enumerate(pairs)]

    def factors(self, variables: Sequence[keras.Variable]) -> np.ndarray:
        """One factor a variable, float64.

        Raises:
            UserError: if a configuration cannot tell variables of one path apart.
        """
        # By place first: a file gives variables other paths, and some the same, for
        # Keras leaves out the name of a Sequential model that it loads.
        placed = [(t, f) for t, f in self._pairs if isinstance(t, str) and re.match(r"=\d", t)]
        if len(placed) == len(variables) > 0 and all(
            _fits(_path(target), variable.path)
            for (target, _), variable in zip(placed, variables, strict=True)
        ):
            return np.array([factor for _, factor in placed])
        self._check_paths(variables)
        return np.array([self._factor(variable) for variable in variables])

    def config(self, built: Sequence[keras.Variable]) -> list[list]:
        """Strings and factors with which other variables, read from a file, get the same.

        Args:
            built: the variables of the optimiser, if any yet.
        """
        if not self._pairs:
            return []
        factors = self.factors(built)
        config: list[list] = [
            [f"={place}:{variable.path}", float(factor)]
            for place, (variable, factor) in enumerate(zip(built, factors, strict=True))
        ]
        known, paths = set(map(id, built)), {v.path for v in built}
        for target, factor in self._pairs:
            if not isinstance(target, str):
                if id(target) not in known:
                    config.append([f"=:{target.path}", factor])
            elif not target.startswith("=") or not built:
                config.append([target, factor])
            elif _path(target) not in paths:
                config.append([f"=:{_path(target)}", factor])
        return config

    def _factor(self, variable: keras.Variable) -> float:
        for target, factor in self._pairs:
            if not isinstance(target, str):
                found = target is variable
            elif target.startswith("="):
                found = _path(target) == variable.path
            else:
                found = re.search(target, variable.path) is not None
            if found:
                return factor
        return 1.0

    def _check_paths(self, variables: Sequence[keras.Variable]) -> None:
        known: dict[str, list[float]] = {}
        for target, factor in self._pairs:
            if isinstance(target, str) and target.startswith("="):
                known.setdefault(_path(target), []).append(factor)
        for path, count in Counter(v.path for v in variables).items():
            factors = known.get(path, [])
            if factors and (count > len(factors) or len(set(factors)) > 1):
                raise UserError(
                    f"multipliers from a configuration have {len(factors)} factors for the path "
                    f"{path}, {count} variables with it are to train, and which is which cannot "
                    "be told; give layers names of their own, or multipliers by variable to a "
                    "new optimiser (load a model with compile=False)."
                )


def _path(target: str) -> str:
    return target.partition(":")[2]


def _fits(saved: str, path: str) -> bool:
    return f"/{saved}".endswith(f"/{path}") or f"/{path}".endswith(f"/{saved}")


def _checked(index: int, pair: Any) -> tuple[str | keras.Variable, float]:
    name = f"multipliers[{index}]"
    try:
        target, factor = pair
        if isinstance(target, str) and not target.startswith("="):
            re.compile(target)
        factor = float(factor)
    except (TypeError, ValueError, re.error) as error:
        raise UserError(
            f"{name} is {pair!r} ({error}); give a regular expression on the path of variables, "
            'or a variable, and a factor: ("block_0/", 0.5).'
        ) from None
    if not isinstance(target, str | keras.Variable):
        raise UserError(
            f"{name} is for {target!r}; give a regular expression on the path of variables, or a "
            "variable."
        )
    if not math.isfinite(factor) or factor < 0:
        raise UserError(
            f"{name} multiplies the rate by {factor}; the factor must be finite and at least 0."
        )
    return target, factor
