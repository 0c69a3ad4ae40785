"""Workers on hosts of their own: network namespaces with a cable between them."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def hosts():
    """Two network namespaces with a cable between them: a command prefix and an address each."""
    names = [f"tf{os.getpid()}{side}" for side in "ab"]
    addresses = ["10.213.7.1", "10.213.7.2"]
    try:
        made = shutil.which("ip") and all(run("ip", "netns", "add", name) for name in names)
        made = made and run(
            *("ip", "link", "add", "eth0", "netns", names[0], "type", "veth"),
            *("peer", "name", "eth0", "netns", names[1]),
        )
        if not made:
            pytest.skip("network namespaces need root and the program ip")
        for name, address in zip(names, addresses, strict=True):
            assert run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            assert run("ip", "-n", name, "link", "set", "eth0", "up")
            assert run("ip", "-n", name, "link", "set", "lo", "up")
        prefixes = [["ip", "netns", "exec", name] for name in names]
        yield prefixes, [f"{address}:2222" for address in addresses]
    finally:
        for name in names:
            run("ip", "netns", "del", name)


def test_workers_of_two_hosts_meet_and_notice_a_cut_cable(hosts, start) -> None:
    prefixes, addresses = hosts
    workers = [
        start(addresses, index, prefix=prefix, shared=9) for index, prefix in enumerate(prefixes)
    ]
    for worker in workers:
        assert [worker.says(), worker.says()] == ["starts", "met 9"]
        worker.do("hang")
    assert run("ip", "-n", prefixes[1][3], "link", "set", "eth0", "down")
    for index, worker in enumerate(workers):
        status, said = worker.ends()
        assert status == 75
        other = 1 - index
        assert f"worker {other} ({addresses[other]}) is lost: nothing was heard of it" in said


def test_a_host_that_is_not_there_is_named(hosts, start) -> None:
    prefixes, addresses = hosts
    late = start(("10.213.7.77:2222", addresses[1]), 1, prefix=prefixes[1], timeout=1.0)
    status, said = late.ends()
    assert status == 75
    assert said.startswith("worker 0 (10.213.7.77:2222) did not come within 1 s")
