import os
import pickle
import resource
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from tests.model.torch_files import MAGIC, PROTOCOL, _Pickler, _Tensor, write_torch
from tf_finetune.model.torch_file import TorchFileError, read_tensors

ARRAYS = {
    "a.weight": np.arange(24, dtype="float32").reshape(2, 3, 4),
    "turned": np.arange(6, dtype="float32").reshape(2, 3).T,
    "number": np.array(7, "float32"),
}


def test_tensors_come_back_whole_and_in_their_order(tmp_path):
    found = read_tensors(write_torch(tmp_path / "a.pth", ARRAYS))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


class Hostile:
    def __init__(self, function, *arguments):
        self.how = (function, arguments)

    def __reduce__(self):
        return self.how


@pytest.mark.parametrize(
    ("function", "named"),
    [(os.system, "system"), (eval, "eval"), (getattr, "getattr"), (print, "print")],
)
def test_a_file_that_would_run_code_is_refused_before_it_does(function, named, tmp_path):
    mark = tmp_path / "it-ran"
    file = write_torch(tmp_path / "a.pth", ARRAYS, Hostile(function, f"touch {mark}"))
    with pytest.raises(TorchFileError, match=rf"\.{named}, which could run code"):
        read_tensors(file)
    # The whole file, too, where it is nothing but a call.
    file.write_bytes(pickle.dumps(Hostile(os.system, f"touch {mark}")))
    with pytest.raises(TorchFileError, match="could run code"):
        read_tensors(file)
    assert not mark.exists()


@pytest.mark.parametrize(
    "state", [("storage", 0, (4000,), (1,)), (None, {"shape": (4000,)}), {"shape": (4000,)}]
)
def test_what_was_checked_cannot_be_changed(state, tmp_path):
    """By the part of a pickle that sets an object's state after it was made."""
    file = write_torch(tmp_path / "a.pth", {"a": np.zeros(4, "float32")})
    content = file.read_bytes()
    # Behind the call that makes the tensor, before it is put under its name.
    built = pickle.dumps(state, protocol=2)[2:-1] + pickle.BUILD
    place = content.rindex(pickle.REDUCE, 0, content.rindex(pickle.SETITEM)) + 1
    file.write_bytes(content[:place] + built + content[place:])
    with pytest.raises(TorchFileError):
        read_tensors(file)


def test_a_file_that_is_cut_off_anywhere_is_named_so(tmp_path):
    whole = write_torch(tmp_path / "a.pth", ARRAYS).read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / "b.pth").write_bytes(whole[:end])
        with pytest.raises(TorchFileError, match=r"cut off|damaged"):
            read_tensors(tmp_path / "b.pth")


@pytest.mark.parametrize("strides", [(0, 0, 0), (100, 4, 1), (-12, 4, 1)])
def test_tensors_stay_within_their_numbers(strides, tmp_path):
    array = np.arange(24, dtype="float32").reshape(2, 3, 4)
    file = write_torch(tmp_path / "a.pth", {"a": array}, strides=strides)
    if strides == (0, 0, 0):  # all the same number: allowed, and no larger than the file
        assert read_tensors(file)["a"].tolist() == np.zeros((2, 3, 4)).tolist()
        return
    with pytest.raises(TorchFileError, match=r"larger than its numbers|impossible shape"):
        read_tensors(file)


def test_other_files_are_told_apart(tmp_path):
    file = tmp_path / "a.pth"
    np.savez(file.with_suffix(".npz"), a=np.zeros(3))
    with pytest.raises(TorchFileError, match="_use_new_zipfile_serialization"):
        read_tensors(file.with_suffix(".npz"))
    file.write_bytes(pickle.dumps(5))
    with pytest.raises(TorchFileError, match="no file by torch"):
        read_tensors(file)
    write_torch(file, {}, extra=[1, 2])
    with pytest.raises(TorchFileError, match="state_dict"):
        read_tensors(file)
    file.write_bytes(b"hello\n" * 10)
    with pytest.raises(TorchFileError, match="damaged"):
        read_tensors(file)


def test_the_same_numbers_have_one_size(tmp_path):
    """Else a tensor of the larger one would reach beyond them."""
    large, small = (_Tensor("0", np.zeros(n, "float32"), None) for n in (4000, 4))
    file, named = tmp_path / "a.pth", OrderedDict(a=large, b=small)
    with file.open("wb") as stream:
        for part in (MAGIC, PROTOCOL, {"little_endian": True}, named, ["0"]):
            _Pickler(stream, 2).dump(part)
        stream.write(struct.pack("<q", 4) + bytes(16))
    with pytest.raises(TorchFileError, match="the same numbers two sizes"):
        read_tensors(file)


def test_an_object_with_a_huge_number_takes_no_memory(tmp_path):
    """The reader in C makes room for all numbers below."""
    bomb = b"\x80\x02K\x01r" + struct.pack("<I", 2**31) + b"."
    (tmp_path / "a.pth").write_bytes(bomb)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**32, limit[1]))
    try:
        with pytest.raises(TorchFileError, match=r"no file by torch\.save"):
            read_tensors(tmp_path / "a.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


def test_tensors_that_are_far_larger_than_the_file(tmp_path):
    wide = np.lib.stride_tricks.as_strided(np.zeros(100, "float32"), (100_000, 100), (0, 4))
    file = write_torch(tmp_path / "a.pth", {"a": wide})
    if file.stat().st_size < 10_000_000:
        with pytest.raises(TorchFileError, match="far larger than it is"):
            read_tensors(file)
