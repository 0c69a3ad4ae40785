import subprocess
import sys

import pytest

from tf_finetune.stopping import Stop, Stopped


def test_where_nothing_holds_it_back_it_stops_at_once():
    stop = Stop()
    stop.check()
    with pytest.raises(Stopped):
        stop.ask()
    with pytest.raises(Stopped):
        stop.check()
    with pytest.raises(Stopped):
        stop.ask()  # the first may have come where Python drops exceptions


def test_what_is_held_is_not_broken_off_but_stops_at_its_end():
    stop, done = Stop(), []

    def batch():
        with stop.held():
            stop.ask()
            done.append("the batch")

    with pytest.raises(Stopped):
        batch()
    assert done == ["the batch"]
    with Stop().held():
        done.append("without a wish")
    assert done[-1] == "without a wish"


def test_no_except_exception_takes_it_for_an_error():
    assert not issubclass(Stopped, Exception)


def test_a_signal_where_python_drops_exceptions_is_not_lost():
    code = (
        "import os, signal, sys, time\n"
        "from tf_finetune.stopping import Stop, Stopped, ask_on_sigterm\n"
        "class Dropping:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('dropped')\n"
        "ask_on_sigterm(Stop())\n"
        "try:\n"
        "    Dropping()\n"
        "    while True:\n"
        "        time.sleep(60)\n"
        "except Stopped:\n"
        "    print('stopped')\n"
        "class Other:\n"
        "    def __del__(self):\n"
        "        raise ValueError('shown')\n"
        "Other()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.split() == ["stopped"]
    assert "ValueError: shown" in done.stderr
    assert "Stopped" not in done.stderr
