"""Checkpoints written while training goes on, and how often."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from tf_finetune.checkpoints.files import Arrays, CheckpointFiles, Facts

# Times what the last one cost: less than 2% of the time goes into saving.
_TIMES = 50
# Seconds that are little to do again.
_LEAST = 10.0


class Saver:
    """Writes checkpoints in a thread of its own, one at a time.

    Args:
        files: where to; None writes nothing, on workers that are not the chief.
        every: updates between two of them; 0 goes by what they cost: the next is due
            when 50 times the seconds have passed that the last one took of the training's
            time and of a processor's, 10 seconds at least.
        say: told once, in one line, that checkpoints cannot be written. Training goes on
            with those that there are, and the next is tried again.
        clock: seconds, which never go backwards.

    Attributes:
        every: as given.
        seconds: that the training has waited for the last one.
    """

    def __init__(
        self,
        files: CheckpointFiles | None,
        *,
        every: int = 0,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self.every, self._say, self._clock = files, every, say, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._writing: Future[float] | None = None
        self._updates, self._last = 0, clock()
        self._cost = self.seconds = 0.0
        self._failing = False

    def begin(self, updates: int) -> None:
        """A phase begins, of which so many updates are done."""
        self._updates = updates

    def due(self, updates: int) -> bool:
        """Whether the phase is to be saved now, after so many of its updates."""
        if not self._files:
            return False
        if self.every:
            return updates - self._updates >= self.every
        if self._writing and not self._writing.done():
            return False
        self.wait()
        return self._clock() - self._last >= max(_LEAST, _TIMES * self._cost)

    def save(self, take: Callable[[], tuple[Arrays, Facts]], updates: int = 0) -> None:
        """Saves what `take` gives, copies that training does not change.

        Args:
            take: called at once.
            updates: of the phase that are done.
        """
        if not self._files:
            return
        began = self._clock()
        self.wait()
        arrays, facts = take()
        facts = copy.deepcopy(facts)
        self._writing = self._thread.submit(_write, self._files, arrays, facts)
        self._last, self._updates = self._clock(), updates
        self._cost = self.seconds = self._last - began

    def wait(self) -> None:
        """Returns when what was saved last is on the disk, or could not be written."""
        writing, self._writing = self._writing, None
        if not writing:
            return
        try:
            self._cost = self.seconds + writing.result()
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._say(
                    f"no checkpoint could be written ({error}); training goes on, and the next "
                    "one is tried again"
                )
            self._failing = True

    def close(self) -> None:
        """Waits, then ends the thread."""
        self.wait()
        self._thread.shutdown()


def _write(files: CheckpointFiles, arrays: Arrays, facts: Facts) -> float:
    began = time.thread_time()
    files.write(arrays, facts)
    return time.thread_time() - began
