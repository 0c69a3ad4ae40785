"""Files as PyTorch's old `torch.save` writes them, without PyTorch."""

import pickle
import struct
from collections import OrderedDict

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class _Named:
    """Pickled as a global of that name."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class _Storage:
    def __init__(self, key, size):
        self.key, self.size = key, size


class _Pickler(pickle._Pickler):
    def persistent_id(self, found):
        if isinstance(found, _Storage):
            kind = _Named("torch", "FloatStorage")
            return ("storage", kind, found.key, "cpu", found.size, None)
        return None

    def save(self, found, save_persistent_id=True):
        if isinstance(found, _Named):
            self.write(b"c" + f"{found.module}\n{found.name}\n".encode())
        else:
            super().save(found, save_persistent_id)


class _Tensor:
    def __init__(self, key, array, strides):
        self.storage, self.array, self.strides = _Storage(key, array.size), array, strides


_Pickler.dispatch = dict(_Pickler.dispatch)


def _save_tensor(pickler, tensor):
    pickler.save(_Named("torch._utils", "_rebuild_tensor_v2"))
    steps = tensor.strides or tuple(s // tensor.array.itemsize for s in tensor.array.strides)
    pickler.save((tensor.storage, 0, tensor.array.shape, steps, False, OrderedDict()))
    pickler.write(pickle.REDUCE)


_Pickler.dispatch[_Tensor] = _save_tensor


def write_torch(file, arrays, extra=None, strides=None):
    """Writes float32 arrays; `extra` is pickled among them."""
    tensors = OrderedDict(
        (name, _Tensor(str(i), array, strides)) for i, (name, array) in enumerate(arrays.items())
    )
    if extra is not None:
        tensors["extra"] = extra
    with file.open("wb") as stream:
        for part in (
            MAGIC,
            PROTOCOL,
            {"little_endian": True},
            tensors,
            list(map(str, range(len(arrays)))),
        ):
            _Pickler(stream, 2).dump(part)
        for array in arrays.values():
            stream.write(struct.pack("<q", array.size) + array.ravel("K").astype("<f4").tobytes())
    return file
