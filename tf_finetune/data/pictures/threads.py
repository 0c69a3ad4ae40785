"""Work on many pictures at once, given back in order."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_AHEAD = 32

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int = _AHEAD
) -> Iterator[_Result]:
    """`map` in threads, one for each processor: Pillow decodes outside of Python's lock.

    Args:
        function: called with each item, at the same time with several.
        items: may have no end.
        ahead: results made before they are asked for.

    Yields:
        The results in the order of the items.
    """
    begun: collections.deque[Future[_Result]] = collections.deque()
    with ThreadPoolExecutor(min(ahead, processors()), "pictures") as pool:
        try:
            for item in items:
                begun.append(pool.submit(function, item))
                if len(begun) > ahead:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
