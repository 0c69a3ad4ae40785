"""Several workers on one machine: their share of it, their lines, and their end."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from tf_finetune.cluster.lost import LOST_STATUS
from tf_finetune.cluster.spec import Cluster
from tf_finetune.cluster.watch import LAUNCHER
from tf_finetune.errors import UserError

_GPUS = "CUDA_VISIBLE_DEVICES"
_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds between SIGTERM and SIGKILL for workers that hang.
_KILL_AFTER = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Workers:
    """What to start.

    Attributes:
        command: of each worker.
        environments: what each has in its environment besides that of this process.
        grace: seconds that the others have to leave by themselves when one ended badly.
    """

    command: Sequence[str]
    environments: Sequence[Mapping[str, str]]
    grace: float


def environments(
    count: int, environ: Mapping[str, str], name: str = "--workers"
) -> list[dict[str, str]]:
    """The share of GPUs, or else of cores, that each of `count` workers gets.

    Args:
        count: of workers.
        environ: of this process.
        name: of the setting that says how many.

    Raises:
        UserError: if GPUs cannot be divided.
    """
    gpus = _gpus(environ)
    if len(gpus) % count:
        raise UserError(
            f"{name} is {count}, but there are {len(gpus)} GPUs, which cannot be divided among "
            f"them; choose another number, or name some in {_GPUS} (-1 for none)."
        )
    if gpus:
        share = len(gpus) // count
        return [{_GPUS: ",".join(gpus[i * share : (i + 1) * share])} for i in range(count)]
    cores = max(1, len(os.sched_getaffinity(0)) // count)
    return [{name: str(cores) for name in _THREADS if name not in environ} for _ in range(count)]


def _gpus(environ: Mapping[str, str]) -> list[str]:
    if _GPUS in environ:
        named = [name.strip() for name in environ[_GPUS].split(",") if name.strip()]
        return named[: named.index("-1")] if "-1" in named else named  # as CUDA reads it
    return [str(number) for number in range(len(glob.glob("/dev/nvidia[0-9]*")))]


def run_workers(workers: Workers, restarts: int) -> int:
    """Runs workers to their end, again where one was lost.

    Args:
        workers: what to start.
        restarts: how often at most to start all again.

    Returns:
        The status of the first that ended badly, as a shell says it, or 0.
    """
    while True:
        status, lost = _Run(workers).end()
        if not lost or not restarts:
            return status
        restarts -= 1
        print(
            f"tf-finetune-launch: a worker was lost (status {status}); starting all again, "
            f"{restarts} restarts left.",
            file=sys.stderr,
            flush=True,
        )


class _Run:
    """One start of all workers."""

    def __init__(self, workers: Workers) -> None:
        self._grace = workers.grace
        self._signals: list[int] = []
        self._printing = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        with _free_ports(len(workers.environments)) as ports, self._passing_on():
            addresses = tuple(f"127.0.0.1:{port}" for port in ports)
            try:
                for index, environment in enumerate(workers.environments):
                    cluster = Cluster(addresses=addresses, index=index)
                    own = {"TF_CONFIG": cluster.tf_config(), **environment}
                    self._start(index, workers.command, own)
                self._statuses = self._wait()
            finally:
                for process in self._processes:
                    process.kill()
                    process.wait()
            for reader in self._readers:
                reader.join()

    def end(self) -> tuple[int, bool]:
        """The first bad status, of a mistake before others, or 0; and whether to start again."""
        bad = [status for status in self._statuses if status]
        # One that we ended ourselves was not lost; one that made a mistake makes it again.
        lost = any(status == LOST_STATUS or status < 0 for status in bad)
        mistaken = any(0 < status != LOST_STATUS for status in bad)
        # A scheduler starts again where one was lost: a mistake is to be told before that.
        first = (status for status in bad if 0 < status != LOST_STATUS)
        status = next(first, bad[0] if bad else 0)
        again = lost and not mistaken and not self._signals
        return (128 - status if status < 0 else status), again

    def _start(self, index: int, command: Sequence[str], environment: Mapping[str, str]) -> None:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment, LAUNCHER: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a terminal's Ctrl-C comes once, through this process
        )
        self._processes.append(process)
        for pipe, stream in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            arguments = (f"[worker {index}] ".encode(), pipe, stream.buffer)
            reader = threading.Thread(target=self._print, args=arguments)
            reader.start()
            self._readers.append(reader)

    def _print(self, prefix: bytes, pipe: IO[bytes], stream: Any) -> None:
        with pipe:
            for line in pipe:
                # Who reads our lines may have gone; the worker must not wait for that.
                with self._printing, contextlib.suppress(BrokenPipeError):
                    stream.write(prefix + line.rstrip(b"\n") + b"\n")
                    stream.flush()

    @contextlib.contextmanager
    def _passing_on(self) -> Iterator[None]:
        # What is ignored stays so: SIGHUP under nohup, Ctrl-C in a script's background.
        heard = [one for one in _PASSED_ON if signal.getsignal(one) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._pass_on) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, _: Any) -> None:
        # Who asks twice does not want to wait for a checkpoint.
        self._send(signal.SIGKILL if self._signals else number)
        self._signals.append(number)

    def _send(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)  # nothing where it has ended

    def _wait(self) -> list[int]:
        """The statuses of those that ended by themselves, in that order."""
        statuses: list[int] = []
        running = list(self._processes)
        first_bad, terminated = float("inf"), False
        while running:
            for process in running.copy():
                if process.poll() is None:
                    continue
                running.remove(process)
                if not terminated:  # else it is a consequence, not a reason
                    statuses.append(process.returncode)
                if process.returncode:
                    first_bad = min(first_bad, time.monotonic())
            late = time.monotonic() - first_bad - self._grace
            if late > 0 and not terminated:
                terminated = True
                self._send(signal.SIGTERM)
            if late > _KILL_AFTER:
                self._send(signal.SIGKILL)
            time.sleep(0.05)
        return statuses


@contextlib.contextmanager
def _free_ports(count: int) -> Iterator[list[int]]:
    """Ports that stay bound, so that none else gets them, but at which workers may listen."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("", 0))
        yield [one.getsockname()[1] for one in held]
