"""TensorFlow's start-up chatter, silenced for the command line.

TensorFlow 2.21 writes lines on oneDNN and absent GPUs to file descriptor 2 while
it starts, whatever TF_CPP_MIN_LOG_LEVEL says. Importing the package never touches
this; only a process that is all ours may redirect its own descriptors.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_NVIDIA = "/dev/nvidia0"


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for its devices, without a word if all is well.

    What it wrote is shown after all if the import fails, or if there is an NVIDIA
    card that it cannot use. Whoever sets TF_CPP_MIN_LOG_LEVEL gets what was asked for.
    """
    if _LEVEL in os.environ:
        return
    # Fatal errors alone: TensorFlow logs harmless things as errors (that oneDNN has no
    # kernel for some type), and what matters is raised.
    os.environ[_LEVEL] = "3"
    with held_back_stderr() as forget:
        import tensorflow as tf

        # The search for GPUs writes too; it comes sooner or later anyway.
        if tf.config.list_physical_devices("GPU") or not os.path.exists(_NVIDIA):
            forget()


@contextlib.contextmanager
def without_retracing() -> Iterator[None]:
    """Within it TensorFlow does not warn of functions that it traces again and again.

    It takes those of one line for one function, though they are of different models.
    """
    logger = logging.getLogger("tensorflow")

    def wanted(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


@contextlib.contextmanager
def held_back_stderr() -> Iterator[Callable[[], None]]:
    """Holds back what anyone writes to file descriptor 2, and shows it at the end.

    Yields:
        A function that drops what was written so far.
    """
    sys.stderr.flush()
    real = os.dup(2)
    # A crash in native code still shows at least where it came from.
    faulthandler.enable(real)
    with tempfile.TemporaryFile(buffering=0) as held:

        def forget() -> None:
            sys.stderr.flush()
            held.seek(0)
            held.truncate()

        os.dup2(held.fileno(), 2)
        try:
            yield forget
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            faulthandler.enable(2)
            held.seek(0)
            os.write(2, held.read())
