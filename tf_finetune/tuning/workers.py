"""Several workers at the trials of one tuning, each a process of its own.

    python -m tf_finetune.tuning.workers FOLDER NUMBER

is one of them: it reads the configuration from its standard input, and ends when that does.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tf_finetune.cluster.local import environments
from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import UserError

_MISTAKE = 2
# Of what a worker that failed wrote, in characters.
_TAIL = 4000


def try_together(config: FineTuneConfig, run: Path, say: Callable[[str], None]) -> None:
    """Has workers try settings until the budget is used up.

    GPUs, or else cores, are divided among them. If one fails, all end.

    Args:
        config: of the tuning, with `tune.workers` and where the data are.
        run: the folder of the tuning, begun.
        say: where lines for people go.

    Raises:
        UserError: for a mistake that a worker found, GPUs that cannot be divided, or a worker
            that was killed.
        RuntimeError: for anything else that ended one.
    """
    count, lines = config.tune.workers, queue.SimpleQueue[str | int]()
    shares = environments(count, os.environ, "config.tune.workers")
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_worker(config, run, number, share, lines))
            for number, share in enumerate(shares)
        ]
        left = count
        while left:
            line = lines.get()
            if isinstance(line, str):
                say(line)
                continue
            left -= 1
            process, errors = workers[line]
            if process.wait():
                errors.seek(0)
                words = errors.read()[-_TAIL:].strip()
                if process.returncode == _MISTAKE:
                    raise UserError(words)
                if process.returncode == -signal.SIGKILL:
                    raise UserError(
                        f"worker {line} was killed by signal 9, as systems do when memory runs "
                        "out; what has ended is kept, and the same command goes on. If that "
                        f"happens again, set config.tune.workers below {count}."
                    )
                raise RuntimeError(f"a worker ended with {process.returncode}: {words}")


@contextlib.contextmanager
def _worker(
    config: FineTuneConfig,
    run: Path,
    number: int,
    share: dict[str, str],
    lines: queue.SimpleQueue[str | int],
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A worker, with what it writes to standard error, until the block ends.

    Its lines come into `lines`, and its number after the last.
    """

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            lines.put(line.rstrip("\n"))
        lines.put(number)

    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tf_finetune.tuning.workers", str(run), str(number)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **share},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C ends it by ending this process
        )
        reader = threading.Thread(target=read, daemon=True)
        try:
            assert process.stdin
            reader.start()
            with contextlib.suppress(BrokenPipeError):  # it has ended, and said why
                process.stdin.write(json.dumps(json.loads(config.to_json())) + "\n")
                process.stdin.flush()
            yield process, errors
        finally:
            process.kill()
            process.wait()
            reader.join()


def _work(run: Path, number: int) -> None:
    config = FineTuneConfig.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from tf_finetune import quiet

    quiet.import_tensorflow()
    from tf_finetune.preflight import share_gpu
    from tf_finetune.tuning.loop import try_settings
    from tf_finetune.tuning.space import read_space
    from tf_finetune.tuning.storage import open_study

    def say(line: str) -> None:
        print(f"worker {number}: {line}", flush=True)

    share_gpu(config)
    with quiet.without_retracing():
        try_settings(open_study(config, run), config, read_space(config), run, None, say, number)


def _end_with_input() -> None:
    """Who started it is gone: killed, perhaps, so that nothing else would tell."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    try:
        _work(Path(sys.argv[1]), int(sys.argv[2]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(_MISTAKE)
