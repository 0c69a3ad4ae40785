"""Results of single runs, a JSON line each, so that an interrupted benchmark goes on."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def once(path: Path, key: dict[str, Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result recorded in `path` under `key`, else that of `run()`, which is recorded.

    Args:
        path: a JSON Lines file; made if missing.
        key: everything that the result depends on, as JSON values.
        run: does the work.
    """
    name = " ".join(f"{k}={v}" for k, v in key.items() if not isinstance(v, dict))
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["key"] == key:
                print(f"{name}: already in {path}", flush=True)
                return record["result"]
    print(f"{name}: running", flush=True)
    result = run()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"key": key, "result": result}) + "\n")
    return result


def spread(values: Sequence[float], digits: int = 4) -> str:
    """`mean ± sample standard deviation`; the mean alone for a single value."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
