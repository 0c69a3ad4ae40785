"""Results of single runs, a JSON line each, so that an interrupted benchmark goes on."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tf_finetune.config import FineTuneConfig


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


def in_a_thrown_away_folder(
    config: FineTuneConfig, measured: Callable[[Any], dict[str, Any]]
) -> dict[str, Any]:
    """What `measured` makes of a run's `FitResult`; of the run itself nothing stays."""
    import keras

    from tf_finetune import fine_tune

    try:
        with tempfile.TemporaryDirectory() as folder:
            return measured(fine_tune(config, Path(folder) / "run"))
    finally:
        keras.backend.clear_session()  # else each run's graphs stay in memory


def spread(values: Sequence[float], digits: int = 4) -> str:
    """`mean ± sample standard deviation`; the mean alone for a single value."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
