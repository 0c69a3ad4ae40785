"""Start-up chatter is held back, and shown where something is wrong."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

from tf_finetune.quiet import held_back_stderr, without_retracing


def fresh(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def test_tensorflow_starts_without_a_word() -> None:
    done = fresh(
        "from tf_finetune import quiet; quiet.import_tensorflow()\n"
        "import sys, tensorflow as tf; float(tf.constant(1.0) + 1)\n"
        "print('own words', file=sys.stderr)"
    )
    assert done.returncode == 0
    assert done.stderr == "own words\n"


def test_a_failing_start_shows_everything(tmp_path: os.PathLike[str]) -> None:
    folder = os.path.join(tmp_path, "tensorflow")
    os.mkdir(folder)
    with open(os.path.join(folder, "__init__.py"), "w") as file:
        file.write("import os; os.write(2, b'native words\\n'); raise ImportError('no such CPU')")
    done = fresh(
        "from tf_finetune import quiet; quiet.import_tensorflow()", PYTHONPATH=str(tmp_path)
    )
    assert done.returncode == 1
    assert "native words\n" in done.stderr
    assert "ImportError: no such CPU" in done.stderr


def test_the_users_own_log_level_is_left_alone() -> None:
    done = fresh(
        "import os, sys; from tf_finetune import quiet; quiet.import_tensorflow()\n"
        "print(os.environ['TF_CPP_MIN_LOG_LEVEL'], 'tensorflow' in sys.modules)",
        TF_CPP_MIN_LOG_LEVEL="0",
    )
    assert done.stdout == "0 False\n"


def test_held_back_words_are_shown_unless_forgotten(capfd: pytest.CaptureFixture[str]) -> None:
    with held_back_stderr() as forget:
        os.write(2, b"first\n")
        forget()
        os.write(2, b"second\n")
        assert capfd.readouterr().err == ""
    os.write(2, b"third\n")
    assert capfd.readouterr().err == "second\nthird\n"


def test_retracing_is_not_warned_of_within_and_all_else_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("tensorflow")
    logger.addHandler(caplog.handler)
    for _ in range(2):
        with without_retracing():
            logger.warning("5 out of the last 5 calls to %s triggered tf.function retracing.", "f")
            logger.warning("something else")
    logger.warning("6 out of the last 6 calls to %s triggered tf.function retracing.", "g")
    logger.removeHandler(caplog.handler)
    said = [record.getMessage() for record in caplog.records]
    assert [line.split()[0] for line in dict.fromkeys(said)] == ["something", "6"]
