"""How much memory is left, and about how much an update will take."""

from __future__ import annotations

import contextlib
import math
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tf_finetune.model.blocks import Groups
from tf_finetune.model.flow import size

_FLOAT = 4
# Gradient, two moments, and one in flight, for each weight that trains.
_COPIES = 4
# Numbers kept for the backward pass: for each feature that a kernel gives or takes, and
# for each pair of tokens that a head compares. Korthikanti et al. 2022 (arXiv:2205.05198)
# count alike. MiniLM takes 3.2 GB for 64 rows of 128 tokens, by this count 4.3 GB.
_FOR_FEATURE, _FOR_PAIR = 3, 4


def update_bytes(
    groups: Groups, backbone: Any, rows: int, tokens: int, *, width: int = _FLOAT, kept: bool = True
) -> int:
    """About what an update of a transformer takes beside the weights, rather too much.

    Args:
        groups: of the network, whose `trainable` is set as it will train.
        backbone: of KerasHub, for its hidden size and heads.
        rows: examples that go through the network at a time.
        tokens: of the longest row.
        width: bytes of a number that is computed with.
        kept: False where the blocks' activations are computed again.
    """
    hidden = int(getattr(backbone, "hidden_dim", 0) or backbone.weights[0].shape[-1])
    heads = int(getattr(backbone, "num_heads", 0) or hidden // 64 or 1)
    trains = [any(v.trainable for v in part) for part in groups.weights()]
    first = trains.index(True) if True in trains else len(trains)
    # The stem keeps next to nothing; its gradient still goes through all blocks.
    blocks = groups.blocks[max(first - 1, 0) :]
    each = [
        _FOR_FEATURE * sum(size(x) for x in block) / hidden + _FOR_PAIR * heads * tokens
        for block in blocks
    ]
    numbers = sum(each) if kept else len(each) * hidden + max(each, default=0)
    trained = sum(math.prod(v.shape) for part in groups.weights() for v in part if v.trainable)
    return int(rows * tokens * numbers * width + trained * _COPIES * _FLOAT)


def picture_update_bytes(
    groups: Groups, picture: np.ndarray, rows: int, *, width: int = _FLOAT
) -> int:
    """As `update_bytes`, of any network: all that is computed on the way counts as kept.

    Args:
        groups: as in `update_bytes`.
        picture: (1, ...), what the network takes.
        rows: as in `update_bytes`.
        width: as in `update_bytes`.
    """
    trained = sum(math.prod(v.shape) for part in groups.weights() for v in part if v.trainable)
    needed = trained * _COPIES * _FLOAT
    if not any(v.trainable for part in groups.weights()[:-1] for v in part):
        return needed
    network = groups.model
    call = tf.function(lambda x: network(x, training=True), autograph=False)
    graph = call.get_concrete_function(tf.TensorSpec(picture.shape, "float32")).graph
    shapes = [x.shape for op in graph.get_operations() for x in op.outputs if x.dtype.is_floating]
    numbers = sum(math.prod(s) for s in shapes if s.rank and s.is_fully_defined() and s[0] == 1)
    return needed + rows * numbers * width


def free_bytes() -> int | None:
    """Memory that this process and what it starts can still take; None if unknown.

    The least of what the machine has, what each control group around this process
    allows, and the limit of its address space.
    """
    found = [*_of_machine(), *_of_groups(), *_of_address_space()]
    return max(min(found), 0) if found else None


def used_bytes(process: int | str = "self", name: str = "VmRSS") -> int:
    """Resident memory of a process now, or at its peak (`VmHWM`); 0 if it is gone."""
    return _field(Path(f"/proc/{process}/status"), name)


def forget_peak() -> None:
    """Has `peak_bytes` count from here on, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most resident memory of this process since `forget_peak`, or else since it began."""
    if found := used_bytes(name="VmHWM"):
        return found
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _of_machine() -> Iterator[int]:
    if available := _field(Path("/proc/meminfo"), "MemAvailable"):
        yield available


def _of_address_space() -> Iterator[int]:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit - used_bytes(name="VmSize")


def _of_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Any:
    """What version 2 and version 1 control groups leave; their cached files count as free."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names, cached = root, ("memory.max", "memory.current"), "inactive_file"
        elif "memory" in controllers.split(","):
            top, cached = root / "memory", "total_inactive_file"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path may be the host's; its own group is then the top.
        for folder in (group, *group.parents):
            limit, used = (_text(folder / name).strip() for name in names)
            if limit.isdigit() and used.isdigit():
                files = re.search(rf"^{cached} (\d+)", _text(folder / "memory.stat"), re.MULTILINE)
                yield int(limit) - int(used) + (int(files[1]) if files else 0)
            if folder == top:
                break


def _field(file: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _text(file), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # no Linux, a process that has ended, a group that is not ours
        return ""
