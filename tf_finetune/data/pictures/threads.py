"""Work on many pictures at once, given back in order."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_AHEAD = 64

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def threads() -> ThreadPoolExecutor:
    """As many threads as this process may use processors: Pillow decodes outside the lock."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ThreadPoolExecutor(count, thread_name_prefix="pictures")


def in_order(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """`map` in threads, a few dozen items ahead of what is asked for and no more."""
    begun: collections.deque[Future[_Result]] = collections.deque()
    with threads() as pool:
        try:
            for item in items:
                begun.append(pool.submit(function, item))
                if len(begun) > _AHEAD:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()
