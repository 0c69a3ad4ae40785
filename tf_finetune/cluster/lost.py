"""A worker that is gone: the one error for it, and the exit status that says: start again."""

from __future__ import annotations

# EX_TEMPFAIL of sysexits.h: nothing is wrong with the command, give it again.
LOST_STATUS = 75
# What TensorFlow raises in a collective operation whose other end is gone: surely the
# first three, the others also for other reasons.
_SURELY = ("UnavailableError", "AbortedError", "DeadlineExceededError")
_PERHAPS = (*_SURELY, "CancelledError", "InternalError")


class PeerLost(RuntimeError):
    """Another worker of the run is gone, or never came; the message names it.

    Nothing is wrong with this worker: started again together with the others, it goes
    on from the last checkpoint. The command line leaves with `LOST_STATUS`.
    """


def perhaps_lost(error: BaseException) -> bool:
    """Whether TensorFlow may have raised this because another worker is gone."""
    return _is(error, _PERHAPS)


def surely_lost(error: BaseException) -> bool:
    """Whether TensorFlow raised this because another worker is gone."""
    return _is(error, _SURELY)


def _is(error: BaseException, names: tuple[str, ...]) -> bool:
    # By name: nothing here imports TensorFlow.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "OpError" in kinds and not kinds.isdisjoint(names)
