"""A wish to stop that comes from outside, as by a signal."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

# Seconds until a wish is told once more.
_AGAIN = 0.01


class Stopped(BaseException):
    """A run was asked to stop, and has; no error, so that nothing takes it for one."""


class Stop:
    """Tells a run to stop: at the end of the batch while it trains, else at once.

    Attributes:
        asked: whether it has been told.
        place: where the run goes on; empty where it begins anew.
        together: whether all workers of the run stop here, from whether this one was told;
            None where there are no others.
    """

    def __init__(self) -> None:
        self.asked, self.place, self._held = False, "", False
        self.together: Callable[[bool], bool] | None = None

    def wanted(self) -> bool:
        """Whether the run stops after this batch; called once after each, on all workers."""
        if self.together:
            self.asked = self.together(self.asked)
        return self.asked

    def ask(self) -> None:
        """From the main thread, such as a signal handler.

        Raises:
            Stopped: where nothing holds it back.
        """
        self.asked = True
        if not self._held:
            raise Stopped

    def check(self) -> None:
        """Raises `Stopped` if it has been asked."""
        if self.asked:
            raise Stopped

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Within it nothing is broken off; what runs there calls `check` itself."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()


def ask_on_sigterm(stop: Stop) -> None:
    """Has SIGTERM ask for a stop; of a process that is all ours, from its main thread.

    Where Python drops the exception, as in a `__del__` of TensorFlow's, it asks again.
    """
    dropped = sys.unraisablehook

    def ask(*_: Any) -> None:
        stop.ask()

    def again(what: Any) -> None:
        if issubclass(what.exc_type, Stopped):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            dropped(what)

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGALRM, ask)
    sys.unraisablehook = again


def ignore_sigterm() -> None:
    """From here on the process ends by itself."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
