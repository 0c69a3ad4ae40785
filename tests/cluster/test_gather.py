"""Workers meet, or are told why not."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time

import pytest

from tests.cluster.processes import SECONDS, free_addresses
from tf_finetune.cluster.gather import gather
from tf_finetune.cluster.lost import PeerLost
from tf_finetune.cluster.spec import Cluster, split_address
from tf_finetune.errors import UserError


def in_threads(clusters, facts, shared=None, timeout=20.0):
    """What `gather` returns or raises for each cluster, all at the same time."""
    ends = [None] * len(clusters)

    def run(number):
        try:
            ends[number] = gather(
                clusters[number],
                facts[number],
                shared if clusters[number].chief else None,
                timeout,
            )
        except Exception as error:
            ends[number] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(clusters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for end in ends:
        if hasattr(end, "leave"):
            end.leave("finished")
    return ends


def of(addresses):
    return [Cluster(addresses=addresses, index=i) for i in range(len(addresses))]


def test_all_get_what_the_chief_hands_out() -> None:
    facts = {"config": {"fit": {"seed": 0, "names": ("a", "b")}}}
    shared = {"checkpoint": 17, "precision": "bfloat16"}
    ends = in_threads(of(free_addresses(3)), [facts] * 3, shared)
    assert [end.shared for end in ends] == [shared] * 3


def test_one_worker_needs_no_other() -> None:
    (address,) = free_addresses(1)
    meeting = gather(Cluster(addresses=(address,), index=0), {"a": 1}, {"micro_batch": 4})
    assert meeting.shared == {"micro_batch": 4}
    assert meeting.agree({"b": 2}, 3) == 3
    meeting.leave("finished")


def test_every_fact_that_differs_is_named_on_all_workers() -> None:
    addresses = free_addresses(3)
    same = {"versions": {"keras": "3.15"}, "config": {"fit": {"seed": 0, "epochs": 2}}}
    other = {"versions": {"keras": "3.12"}, "config": {"fit": {"seed": 1, "epochs": 2}}}
    more = {**same, "data": "b2:77"}
    ends = in_threads(of(addresses), [same, other, more])
    for end in ends:
        assert isinstance(end, UserError)
        assert str(end) == (
            "the workers differ:\n"
            f"  config.fit.seed is 1 on worker 1 ({addresses[1]}), "
            f"but 0 on worker 0 ({addresses[0]})\n"
            f'  versions.keras is "3.12" on worker 1 ({addresses[1]}), '
            f'but "3.15" on worker 0 ({addresses[0]})\n'
            f'  data is "b2:77" on worker 2 ({addresses[2]}), '
            f"but absent on worker 0 ({addresses[0]})\n"
            "Start all with the same command, data and package versions."
        )


def test_a_port_in_use_is_named() -> None:
    addresses = free_addresses(2)
    port = split_address(addresses[1])[1]
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(UserError, match=rf"port {port} of worker 1 \({addresses[1]}\) cannot be"),
    ):
        gather(Cluster(addresses=addresses, index=1), {})


def test_peers_that_do_not_come_are_named_on_all_that_came() -> None:
    addresses = free_addresses(4)
    clusters = of(addresses)
    ends = in_threads([clusters[0], clusters[2]], [{}, {}], timeout=3)
    for end in ends:
        assert isinstance(end, PeerLost)
        assert str(end).startswith(
            f"worker 1 ({addresses[1]}), worker 3 ({addresses[3]}) did not come within 3 s"
        )


def test_a_chief_that_does_not_come_is_named_with_the_reason() -> None:
    addresses = free_addresses(2)
    with pytest.raises(PeerLost, match=r"worker 0 \(127.*within 0.5 s .*\(Connection refused\)"):
        gather(Cluster(addresses=addresses, index=1), {}, timeout=0.5)


def test_a_name_that_nobody_knows_is_waited_for_and_named() -> None:
    cluster = Cluster(addresses=("no-such-host.invalid:2222", *free_addresses(1)), index=1)
    with pytest.raises(PeerLost, match=r"no-such-host.invalid:2222\) did not come .*\(.*not known"):
        gather(cluster, {}, timeout=0.5)


def test_workers_with_other_addresses_are_refused() -> None:
    a, b, c = free_addresses(3)
    chief, swapped = Cluster(addresses=(a, b, c), index=0), Cluster(addresses=(a, c, b), index=1)
    here = socket.gethostname()
    for end in in_threads([chief, swapped], [{}, {}]):
        assert isinstance(end, UserError)
        assert str(end) == (
            f"worker 1 on {here} has other addresses, {a}, {c}, {b}, than worker 0 ({a}), "
            f"{a}, {b}, {c}. Give all workers the same."
        )


def test_an_address_that_others_cannot_reach_is_named() -> None:
    chief, own = free_addresses(2)
    # Worker 1 listens at its port, but the name by which the others know it leads nowhere.
    named = f"no-such-host.invalid:{split_address(own)[1]}"
    ends = in_threads(of((chief, named)), [{}, {}])
    for end in ends:
        assert isinstance(end, UserError)
        assert f"worker 0 ({chief}) does not reach worker 1 ({named}): " in str(end)


def test_two_hosts_with_one_index_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = free_addresses(3)
    chief = Cluster(addresses=addresses, index=0)
    ends = []

    def run() -> None:
        try:
            gather(chief, {}, timeout=30)
        except UserError as error:
            ends.append(str(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    lines = [hello(addresses, 1, host) for host in ("here", "there")]
    thread.join(30)
    assert ends == [
        "both here and there say that they are worker 1. Give each an index of its own (TF_CONFIG)."
    ]
    for line in lines:
        with line, line.makefile() as file:
            heard = [json.loads(text) for text in file if text.strip()]
        assert heard[-1] == {"bye": {"kind": "failed", "why": ends[0]}}


def connect(address):
    """A connection to a worker, once it listens."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return socket.create_connection(split_address(address), timeout=30)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def hello(addresses, index, host):
    line = connect(addresses[0])
    said = {"tf_finetune": 1, "index": index, "addresses": addresses, "host": host}
    line.sendall(json.dumps(said).encode() + b"\n")
    return line


def test_unrelated_connections_do_not_disturb(start) -> None:
    addresses = free_addresses(2)
    chief = start(addresses, 0, shared=5)
    strangers = [connect(addresses[0]) for _ in range(6)]
    strangers[0].close()  # a health check
    strangers[1].sendall(b"GET / HTTP/1.1\r\n\r\n")
    strangers[2].sendall(b"\x16\x03\x01" + bytes(range(256)) * 400)
    strangers[3].sendall(b'{"tf_finetune": 1, "addresses": 3}\n[1, 2]\n')
    strangers[4].sendall(b'{"tf_finetune": 1, "index": {}, "addresses": []}\n' + b"[" * 100_000)
    worker = start(addresses, 1)  # strangers[5] says nothing, and stays
    assert chief.says() == worker.says() == "starts"
    assert chief.says() == worker.says() == "met 5"
    for one in (chief, worker):
        one.do("finish")
    assert [chief.ends(), worker.ends()] == [(0, ""), (0, "")]
    for stranger in strangers:
        stranger.close()


def test_a_worker_that_is_killed_while_it_waits_may_come_again(start) -> None:
    addresses = free_addresses(3)
    chief, first = start(addresses, 0, shared=1), start(addresses, 1)
    assert chief.says() == first.says() == "starts"
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    others = [start(addresses, 1), start(addresses, 2)]
    for one in (chief, *others):
        while (line := one.says()) == "starts":
            pass
        assert line == "met 1"


def test_a_chief_that_is_killed_while_it_waits_may_come_again(start) -> None:
    addresses = free_addresses(3)
    chief, worker = start(addresses, 0, shared=1), start(addresses, 1)
    assert chief.says() == worker.says() == "starts"
    chief.process.send_signal(signal.SIGKILL)
    chief.process.wait()
    others = [start(addresses, 0, shared=2), start(addresses, 2)]
    assert worker.says() == "met 2"
    for one in others:
        assert [one.says(), one.says()] == ["starts", "met 2"]


def test_the_ports_are_free_for_tensorflow_and_taken_for_others() -> None:
    addresses = free_addresses(2)
    meetings = []
    threads = [
        threading.Thread(target=lambda c=cluster: meetings.append(gather(c, {})), daemon=True)
        for cluster in of(addresses)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for address in addresses:
        port = split_address(address)[1]
        with socket.socket() as plain, pytest.raises(OSError, match="in use"):
            plain.bind(("", port))  # as whoever looks for a free port
        # With SO_REUSEADDR, as TensorFlow's server has it.
        server = socket.create_server(("", port))
        with server, socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(b"x")
            accepted, _ = server.accept()
            with accepted:
                assert accepted.recv(1) == b"x"
    assert len(meetings) == 2
    for meeting in meetings:
        meeting.leave("finished")
