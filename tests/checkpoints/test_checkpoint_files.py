import errno
import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from tf_finetune.checkpoints import files
from tf_finetune.checkpoints.files import ARRAYS, STATE, CheckpointFiles
from tf_finetune.errors import UserError

ARRAYS_SAVED = {
    "weights/a#2": np.arange(6, dtype="float32").reshape(2, 3).T,  # not contiguous
    "count": np.array(7, "int64"),
    "seed": np.array([1, 2], "uint32"),
    "none": np.zeros((0, 3), "float32"),
    "nan": np.array([np.nan, -0.0, np.inf], "float32"),
}
FACTS = {"best": [float("-inf"), 0.1 + 0.2], "rows": [{"loss": 1e-17}], "name": "Ä"}


@pytest.fixture
def store(tmp_path):
    return CheckpointFiles(tmp_path / "checkpoints")


def write(store, number):
    return store.write({"n": np.full(3, number, "float32")}, {"number": number})


def newest(store):
    """The facts of the newest, and what is said."""
    said = []
    found = CheckpointFiles(store._folder).newest(said.append)
    return (found and found.facts["number"]), said


def test_what_is_read_is_what_was_written_bit_for_bit(store):
    store.write(ARRAYS_SAVED, FACTS)
    found = store.newest()
    assert found.facts == FACTS
    assert found.arrays.keys() == ARRAYS_SAVED.keys()
    for name, array in ARRAYS_SAVED.items():
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (array.dtype, array.shape)
        assert found.arrays[name].tobytes() == array.tobytes()


def test_the_newest_two_are_kept_in_the_order_of_their_numbers(store, monkeypatch):
    assert store.newest() is None
    for number in range(1, 13):
        # A clock that goes backwards.
        path = write(store, number)
        os.utime(path, (1e9 - number, 1e9 - number))
    assert sorted(path.name for path in store._folder.iterdir()) == ["000011", "000012"]
    assert newest(store) == (12, [])
    store.prune(1)
    assert [path.name for path in store._folder.iterdir()] == ["000012"]


def truncate(path):
    os.truncate(path, path.stat().st_size - 5)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def alter(path):
    path.write_text(path.read_text().replace('"number": 2', '"number": 3'))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        (ARRAYS, truncate, "incomplete metadata"),
        (ARRAYS, flip, "arrays.safetensors is not as it was written"),
        (ARRAYS, os.remove, "arrays.safetensors is missing"),
        (ARRAYS, empty, "header"),
        (STATE, truncate, "line 1 column"),
        (STATE, alter, "state.json is not as it was written"),
        (STATE, os.remove, "state.json is missing"),
        (STATE, empty, "line 1 column"),
    ],
)
def test_of_a_damaged_one_the_one_before_is_taken(store, name, damage, reason):
    write(store, 1)
    path = write(store, 2)
    damage(path / name)
    number, (line,) = newest(store)
    assert number == 1
    assert line.startswith(f"{path} is damaged and is not used: ")
    assert reason in line
    # The next has a number of its own, and the damaged one goes.
    again = CheckpointFiles(store._folder)
    again.newest(lambda line: None)
    assert write(again, 3).name == "000003"
    assert sorted(path.name for path in store._folder.iterdir()) == ["000001", "000003"]


def test_all_damaged_is_none(store):
    for number in (1, 2):
        flip(write(store, number) / ARRAYS)
    number, said = newest(store)
    assert number is None
    assert len(said) == 3
    assert said[-1] == "no checkpoint is whole; the run begins anew"


@pytest.mark.parametrize("version", [0, files.FORMAT + 1])
def test_another_format_is_refused(store, version):
    path = write(store, 1)
    state = json.loads((path / STATE).read_text()) | {"format": version}
    (path / STATE).write_text(json.dumps(state))
    with pytest.raises(UserError, match=f"has the format {version}, and this version reads 1"):
        store.newest()
    assert path.exists()


def test_what_a_killed_write_left_is_removed_and_not_read(store):
    path = write(store, 1)
    shutil.copytree(path, store._folder / "writing-000002")
    (store._folder / "1-probe").mkdir()  # another's
    assert newest(store) == (1, [])
    assert sorted(p.name for p in store._folder.iterdir()) == ["000001", "1-probe"]


def test_what_the_disk_must_have_free_beside_it(store, tmp_path):
    write(store, 1)
    store.reserve = shutil.disk_usage(tmp_path).free
    with pytest.raises(OSError, match="No space left") as refused:
        write(store, 2)
    assert refused.value.errno == errno.ENOSPC
    assert newest(store) == (1, [])


def test_a_write_that_fails_leaves_the_one_before(store):
    """A limit on the size of files stands for a full disk."""
    write(store, 1)
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from tf_finetune.checkpoints.files import CheckpointFiles\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try:\n"
        "    CheckpointFiles(Path(sys.argv[1])).write({'n': np.zeros(5000)}, {'number': 2})\n"
        "except OSError as error:\n"
        "    sys.exit(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store._folder)])
    assert done.returncode == errno.EFBIG
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 9000
    assert newest(store) == (1, [])
    assert [path.name for path in store._folder.iterdir()] == ["000001"]


def test_a_library_of_the_format_reads_them(store):
    path = store.write(ARRAYS_SAVED, {})
    with safetensors.safe_open(path / ARRAYS, "numpy") as file:
        assert set(file.keys()) == ARRAYS_SAVED.keys()


def test_a_disk_that_does_not_answer_is_no_damage(store, monkeypatch):
    write(store, 1)

    def fails(*args, **kwargs):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(safetensors.numpy, "load_file", fails)
    with pytest.raises(UserError, match=r"000001\" cannot be read .*Nothing was removed"):
        CheckpointFiles(store._folder).newest(lambda line: None)
    monkeypatch.undo()
    assert newest(store) == (1, [])
