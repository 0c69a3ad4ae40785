"""How much memory is left, as Linux tells it, and what an update is estimated to take."""

import resource

import numpy as np
import pytest

from tests.tiny import tiny_task
from tests.tiny_pictures import tiny_image_task
from tf_finetune.fit import memory
from tf_finetune.model.blocks import layer_groups
from tf_finetune.model.freezing import set_trainable


def group(folder, version, limit, used, cached):
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {cached}\n")


def left(tmp_path, line):
    own = tmp_path / "own"
    own.write_text(f"{line}\n")
    return list(memory._of_groups(tmp_path / "cgroup", own))


def test_what_the_groups_around_a_process_leave(tmp_path):
    root = tmp_path / "cgroup"
    group(root / "a", 2, 1000, 700, 50)
    group(root / "a" / "b", 2, "max", 600, 50)
    assert left(tmp_path, "0::/a/b") == [350]
    group(root / "a" / "b", 2, 800, 600, 50)
    assert left(tmp_path, "0::/a/b") == [250, 350]
    group(root / "memory", 1, 500, 100, 20)
    assert left(tmp_path, "4:cpu,memory:/unseen/from/inside") == [420]
    assert left(tmp_path, "4:cpu:/a") == []


def test_the_least_that_is_left_counts(monkeypatch):
    unlimited = memory.free_bytes()
    assert 1e8 < unlimited < 1e13
    limit = memory.used_bytes(name="VmSize") + 10_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    assert 0 <= memory.free_bytes() <= 10_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1, 1))
    assert memory.free_bytes() == 0


def test_memory_of_a_process():
    held = bytearray(50_000_000)
    now = memory.used_bytes()
    assert len(held) < now <= memory.used_bytes(name="VmHWM")
    assert memory.used_bytes(2**22 + 1) == 0  # there is none of that number


@pytest.mark.parametrize(("train", "blocks"), [("all", 3), ("last:2", 2), ("head", 0)])
def test_an_update_by_hand(train, blocks):
    task = tiny_task()
    groups = layer_groups(task.network, task.backbone)
    set_trainable(groups, train)
    block = 4 * (16 * 16 + 16) + 2 * 32 + 16 * 32 + 32 + 32 * 16 + 16
    features = 3 * block * blocks / 16
    pairs = 4 * 2 * 10 * blocks
    trained = sum(v.numpy().size for v in task.network.trainable_weights)
    expected = 5 * 10 * (features + pairs) * 4 + trained * 4 * 4
    found = memory.update_bytes(groups, task.backbone, 5, 10)
    assert found == pytest.approx(expected, rel=1e-3)
    half = memory.update_bytes(groups, task.backbone, 5, 10, width=2)
    assert found - half == pytest.approx((expected - trained * 16) / 2, rel=1e-3, abs=1)
    if blocks > 1:
        again = memory.update_bytes(groups, task.backbone, 5, 10, kept=False)
        assert trained * 16 < again < found


def test_an_update_of_pictures_keeps_all_that_is_computed_on_the_way():
    task = tiny_image_task()
    groups, picture = layer_groups(task.network, task.backbone), np.zeros((1, 32, 32, 3), "uint8")

    def estimate(train, rows, **options):
        set_trainable(groups, train)
        return memory.picture_update_bytes(groups, picture, rows, **options)

    head = 16 * (16 * 2 + 2)
    assert estimate("head", 100) == head
    one, two = (estimate("all", rows) for rows in (1, 2))
    # Three maps of 8 x 8 x 16 for each convolution, and some for what surrounds them.
    assert 9 * 8 * 8 * 16 * 4 < two - one < 30 * 8 * 8 * 16 * 4
    assert estimate("all", 3) - two == two - one
    assert estimate("all", 2, width=2) - estimate("all", 1, width=2) == (two - one) / 2
