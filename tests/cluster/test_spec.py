"""Who takes part, from each of the three sources; what contradicts itself is one message."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tf_finetune.cluster.slurm import expand_nodes
from tf_finetune.cluster.spec import Cluster, cluster_for, read_cluster, split_address
from tf_finetune.errors import UserError

TASKS = {
    "SLURM_PROCID": "2",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[08-09]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "1251",
}
PODS = {
    "JOB_COMPLETION_INDEX": "1",
    "HOSTNAME": "train-1",
    "TF_FINETUNE_WORKERS": "3",
    "TF_FINETUNE_SERVICE": "workers",
}


def tf_config(cluster: Any, kind: Any = "worker", index: Any = 0) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_no_cluster() -> None:
    assert read_cluster({"HOME": "/root", "SLURM_JOB_ID": "3"}) is None


def test_tf_config_of_workers_alone() -> None:
    cluster = read_cluster(tf_config({"worker": ["a:1", "b:2", "[::1]:3"]}, index=1))
    assert cluster == Cluster(addresses=("a:1", "b:2", "[::1]:3"), index=1)
    assert not cluster.chief
    assert cluster.others == [0, 2]
    assert cluster.name(2) == "worker 2 ([::1]:3)"
    assert split_address(cluster.addresses[2]) == ("::1", 3)


def test_a_chief_is_the_first_worker() -> None:
    jobs = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    chief, worker = (read_cluster(tf_config(jobs, *task)) for task in (("chief", 0), ("worker", 1)))
    assert chief == Cluster(addresses=("a:1", "b:1", "c:1"), index=0)
    assert worker == Cluster(addresses=("a:1", "b:1", "c:1"), index=2)
    assert chief.chief


def test_what_is_written_for_tensorflow_is_read_back() -> None:
    cluster = Cluster(addresses=("a:1", "b:2"), index=1)
    assert read_cluster({"TF_CONFIG": cluster.tf_config()}) == cluster


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "TF_CONFIG is no JSON: Expecting property name"),
        ("", "TF_CONFIG is no JSON: Expecting value"),
        ("[]", 'TF_CONFIG has no object "cluster". An example: {"cluster"'),
        ('{"cluster": {}}', 'TF_CONFIG has no object "task".'),
        ('{"task": {"type": "worker", "index": 0}}', 'TF_CONFIG has no object "cluster".'),
        (({},), "TF_CONFIG names no worker in its cluster."),
        (({"worker": []},), "TF_CONFIG names no worker in its cluster."),
        (({"worker": "a:1"},), "TF_CONFIG: cluster.worker is 'a:1'; it must be a list of"),
        (({"worker": [1]},), "TF_CONFIG: cluster.worker is [1]; it must be a list of"),
        (({"worker": ["a:1"]}, "worker", 1), "that this is worker 1, but its cluster has 1 of"),
        (({"worker": ["a:1"]}, "worker", -1), "that this is worker -1, but its cluster has 1"),
        (({"worker": ["a:1"]}, "worker", "0"), "that this is worker '0', but its cluster"),
        (({"worker": ["a:1"]}, "worker", None), "that this is worker None, but its cluster"),
        (({"worker": ["a:1"]}, "chief"), "this task is of type chief, but its cluster has worker."),
        (({"worker": ["a:1"]}, "ps"), "of type ps: Keras cannot train with parameter servers."),
        (({"worker": ["a:1"]}, "evaluator"), "of type evaluator: the workers evaluate themselves"),
        (({"worker": ["a:1"]}, ["x"]), "of type ['x']: that is no type of task. Allowed: chief"),
        (({"worker": ["a:1"], "ps": ["b:1"]},), "a task of type ps: Keras cannot train with"),
        (({"worker": ["a:1"], "evaluator": ["b:1"]},), "of type evaluator: the workers evaluate"),
        (({"worker": ["a:1"], "tpu": ["b:1"]},), "of type tpu: that is no type of task."),
        (({"worker": ["a:1", "a:1"]},), 'names the address "a:1" 2 times; each worker needs one'),
        (({"worker": ["a:1"], "chief": ["a:1"]},), 'names the address "a:1" 2 times'),
        (({"worker": ["a:1"], "chief": ["b:1", "c:1"]},), "names 2 chiefs; there is one."),
        (({"worker": ["a"]},), 'the address "a" has no port; write "host:port"'),
        (({"worker": ["a:"]},), 'the address "a:" has no port'),
        (({"worker": [":1"]},), 'the address ":1" has no port'),
        (({"worker": ["a:0"]},), 'the address "a:0" has no port'),
        (({"worker": ["a:65536"]},), 'the address "a:65536" has no port'),
    ],
)
def test_mistakes_in_tf_config(value: Any, message: str) -> None:
    environ = {"TF_CONFIG": value} if isinstance(value, str) else tf_config(*value)
    with pytest.raises(UserError) as error:
        read_cluster(environ)
    assert message in str(error.value)


def test_tasks_of_slurm() -> None:
    port = 10_000 + 1251 % 1250 * 16
    hosts = [f"gpu08:{port}", f"gpu08:{port + 1}", f"gpu09:{port}", f"gpu09:{port + 1}"]
    assert read_cluster(TASKS) == Cluster(addresses=tuple(hosts), index=2, source="Slurm")


def test_slurm_without_the_variables_that_are_not_needed() -> None:
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NODELIST")
    cluster = read_cluster({name: TASKS[name] for name in names})
    assert cluster
    assert [address.partition(":")[0] for address in cluster.addresses] == ["gpu08"] * 2 + [
        "gpu09"
    ] * 2
    ports = read_cluster({**TASKS, "TF_FINETUNE_PORT": "5000"})
    assert ports
    assert ports.addresses == ("gpu08:5000", "gpu08:5001", "gpu09:5000", "gpu09:5001")


def test_a_step_that_is_smaller_than_its_job() -> None:
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": "1"}
    cluster = read_cluster({**TASKS, **step})
    assert cluster
    assert (len(cluster.addresses), cluster.index) == (2, 1)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("a,b-2,c.d", ["a", "b-2", "c.d"]),
        ("n[001-003,7]", ["n001", "n002", "n003", "n7"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[08-10],login", ["n08", "n09", "n10", "login"]),
        ("r[1-2]n[3,5]-ib", ["r1n3-ib", "r1n5-ib", "r2n3-ib", "r2n5-ib"]),
        ("x,n[1,3],y", ["x", "n1", "n3", "y"]),
    ],
)
def test_node_lists(text: str, names: list[str]) -> None:
    assert list(expand_nodes(text)) == names


@pytest.mark.parametrize(
    "text", ["", ",", "a,", "n[", "n[1", "n]1", "n[]", "n[a]", "n[3-1]", "n[1-]", "n[1,]", "n[-2]"]
)
def test_node_lists_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match="which is no list of nodes as"):
        list(expand_nodes(text))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_STEP_NODELIST": None}, "SLURM_STEP_NODELIST is not set: this process was not"),
        ({"SLURM_NTASKS": None}, 'SLURM_NTASKS is ""; it must be a whole number of at least 1.'),
        ({"SLURM_NTASKS": "x"}, 'SLURM_NTASKS is "x"; it must be'),
        ({"SLURM_PROCID": "4"}, "SLURM_PROCID is 4, but SLURM_NTASKS is 4."),
        ({"SLURM_PROCID": "-1"}, 'SLURM_PROCID is "-1"; it must be a whole number'),
        ({"SLURM_NTASKS": "5"}, "4 tasks on 2 nodes, but there are 5 tasks (SLURM_NTASKS)"),
        ({"SLURM_STEP_NODELIST": "a"}, "4 tasks on 2 nodes, but there are 4 tasks (SLURM_NTASKS)"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2x2"}, 'is "2x2"; it must look like "2(x3),1"'),
        (
            {"SLURM_STEP_TASKS_PER_NODE": None, "SLURM_NTASKS": "3"},
            "SLURM_NTASKS is 3, but SLURM_STEP_NODELIST has 2 nodes, and no SLURM_STEP_TASKS",
        ),
        ({"SLURM_LOCALID": "1"}, "2, 2 tasks a node has SLURM_LOCALID=0, but that is 1."),
        ({"SLURM_NODEID": "0"}, "2, 2 tasks a node has SLURM_NODEID=1, but that is 0."),
        ({"TF_FINETUNE_PORT": "http"}, 'TF_FINETUNE_PORT is "http"; it must be'),
        ({"TF_FINETUNE_PORT": "65535"}, "TF_FINETUNE_PORT is 65535, and 2 workers of a host"),
    ],
)
def test_mistakes_in_slurm(changes: dict[str, str | None], message: str) -> None:
    environ = {name: value for name, value in {**TASKS, **changes}.items() if value is not None}
    with pytest.raises(UserError) as error:
        read_cluster(environ)
    assert message in str(error.value)


def test_pods_of_kubernetes() -> None:
    addresses = tuple(f"train-{index}.workers:2222" for index in range(3))
    assert read_cluster(PODS) == Cluster(addresses=addresses, index=1, source="Kubernetes")
    fqdn = {**PODS, "HOSTNAME": "train-1.workers.ns.svc", "TF_FINETUNE_PORT": "80"}
    cluster = read_cluster(fqdn)
    assert cluster
    assert cluster.addresses[2] == "train-2.workers:80"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"TF_FINETUNE_WORKERS": None}, "but TF_FINETUNE_WORKERS is not set; put it into the"),
        ({"TF_FINETUNE_SERVICE": None}, "but TF_FINETUNE_SERVICE is not set; put it into the"),
        ({"TF_FINETUNE_WORKERS": "0"}, 'TF_FINETUNE_WORKERS is "0"; it must be a whole number of'),
        ({"TF_FINETUNE_WORKERS": "1"}, "INDEX is 1, but TF_FINETUNE_WORKERS is 1; set it to"),
        ({"JOB_COMPLETION_INDEX": "one"}, 'JOB_COMPLETION_INDEX is "one"; it must be a whole'),
        ({"HOSTNAME": "train-2"}, 'HOSTNAME is "train-2", which does not end with -1'),
        ({"HOSTNAME": None}, 'HOSTNAME is "", which does not end with -1'),
    ],
)
def test_mistakes_in_kubernetes(changes: dict[str, str | None], message: str) -> None:
    environ = {name: value for name, value in {**PODS, **changes}.items() if value is not None}
    with pytest.raises(UserError) as error:
        read_cluster(environ)
    assert message in str(error.value)


def test_tf_config_goes_before_slurm_and_slurm_before_kubernetes() -> None:
    environ = {**PODS, **TASKS, **tf_config({"worker": ["a:1"]})}
    sources = []
    for name in ("TF_CONFIG", "SLURM_PROCID", "JOB_COMPLETION_INDEX"):
        cluster = read_cluster(environ)
        assert cluster
        sources.append(cluster.source)
        del environ[name]
    assert sources == ["TF_CONFIG", "Slurm", "Kubernetes"]


def test_a_run_of_several_workers_needs_a_cluster_and_any_other_none() -> None:
    both = tf_config({"worker": ["a:1", "b:1"]})
    assert cluster_for("multi_worker", both) == read_cluster(both)
    with pytest.raises(UserError, match='strategy is "multi_worker", but nothing says who takes'):
        cluster_for("multi_worker", {})
    with pytest.raises(UserError, match=r'TF_CONFIG names 2 workers, .* is "none": each would'):
        cluster_for("none", both)
    for environ in ({}, TASKS, tf_config({"worker": ["a:1"]}), {"TF_CONFIG": "{"}):
        assert cluster_for("mirrored", environ) is None
