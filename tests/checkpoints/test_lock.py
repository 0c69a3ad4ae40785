import os
import signal
import socket
import subprocess
import sys

import pytest

from tf_finetune.checkpoints.lock import NAME, locked
from tf_finetune.errors import UserError

HOLDS = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from tf_finetune.checkpoints.lock import locked\n"
    "with locked(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


def test_one_at_a_time_and_nothing_is_left(tmp_path):
    with locked(tmp_path):
        with pytest.raises(UserError) as refused, locked(tmp_path):
            pass
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        assert f'"{tmp_path}" is in use: {holder} works in it' in str(refused.value)
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        assert (tmp_path / NAME).exists()


def test_a_killed_process_holds_it_no_longer(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(UserError, match=f"process {process.pid} on"), locked(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / NAME).exists()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / NAME).read_text()


def test_an_error_frees_it(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    with locked(tmp_path):
        pass
