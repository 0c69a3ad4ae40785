"""Who takes part in a run on several hosts, and which of them this process is.

Three sources, the first that is there: `TF_CONFIG`, as TensorFlow reads it; the variables
that Slurm's `srun` gives to each task; those of a Kubernetes Indexed Job.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from tf_finetune.cluster import kubernetes, slurm
from tf_finetune.errors import UserError

_EXAMPLE = (
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
_REFUSED = {
    "ps": "Keras cannot train with parameter servers",
    "evaluator": "the workers evaluate themselves, together",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The workers of a run, the chief first.

    Attributes:
        addresses: `host:port` of each, at which the others reach it.
        index: of this process among them.
        source: where that was read: `TF_CONFIG`, `Slurm` or `Kubernetes`.
    """

    addresses: tuple[str, ...]
    index: int
    source: str = "TF_CONFIG"

    @property
    def chief(self) -> bool:
        """Whether this is the one that writes files."""
        return self.index == 0

    @property
    def others(self) -> list[int]:
        """The indices of all workers but this one."""
        return [index for index in range(len(self.addresses)) if index != self.index]

    def name(self, index: int) -> str:
        """`worker 1 (host:port)`, as messages call it."""
        return f"worker {index} ({self.addresses[index]})"

    def tf_config(self) -> str:
        """The value of `TF_CONFIG` from which TensorFlow makes the same cluster."""
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": self.addresses}, "task": task})


def read_cluster(environ: Mapping[str, str] = os.environ) -> Cluster | None:
    """Reads from the environment who takes part.

    Args:
        environ: environment variables.

    Returns:
        The cluster, or None where the environment names none.

    Raises:
        UserError: for what cannot be right, or contradicts itself.
    """
    if "TF_CONFIG" in environ:
        addresses, index = _of_tf_config(environ["TF_CONFIG"])
        return Cluster(addresses=addresses, index=index)
    for source, read in (("Slurm", slurm.read_tasks), ("Kubernetes", kubernetes.read_pods)):
        if found := read(environ):
            hosts, index = found
            return Cluster(addresses=tuple(hosts), index=index, source=source)
    return None


def cluster_for(strategy: str, environ: Mapping[str, str] = os.environ) -> Cluster | None:
    """The cluster of a run with this `config.fit.strategy`.

    Args:
        strategy: `multi_worker` or another.
        environ: environment variables.

    Returns:
        The cluster; None for a run of one process.

    Raises:
        UserError: as `read_cluster`; if there is none for `multi_worker`, or if `TF_CONFIG`
            names several workers that would each train alone.
    """
    if strategy == "multi_worker":
        if cluster := read_cluster(environ):
            return cluster
        raise UserError(
            'config.fit.strategy is "multi_worker", but nothing says who takes part: start the '
            "workers with tf-finetune-launch --workers=N, or each host's with TF_CONFIG, Slurm's "
            "srun or a Kubernetes Indexed Job."
        )
    try:
        addresses, _ = _of_tf_config(environ.get("TF_CONFIG", ""))
    except UserError:  # none, or one that nobody reads
        return None
    if len(addresses) > 1:
        raise UserError(
            f'TF_CONFIG names {len(addresses)} workers, but config.fit.strategy is "{strategy}": '
            'each would train alone and write the same files. Set it to "multi_worker", or unset '
            "TF_CONFIG."
        )
    return None


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[IPv6 address]:port`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _of_tf_config(text: str) -> tuple[tuple[str, ...], int]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"TF_CONFIG is no JSON: {error}. An example: {_EXAMPLE}") from None
    for key in ("cluster", "task"):
        if not isinstance(value, dict) or not isinstance(value.get(key), dict):
            raise UserError(f'TF_CONFIG has no object "{key}". An example: {_EXAMPLE}')
    jobs = _jobs(value["cluster"])
    addresses = [address for job in jobs.values() for address in job]
    _check_addresses(addresses)
    kind, index = str(value["task"].get("type")), value["task"].get("index")
    if kind not in jobs:
        _refuse(kind)
        raise UserError(
            f"TF_CONFIG says that this task is of type {kind}, but its cluster has "
            f"{' and '.join(jobs)}. Name one of them in task.type."
        )
    if type(index) is not int or not 0 <= index < len(jobs[kind]):
        raise UserError(
            f"TF_CONFIG says that this is {kind} {index!r}, but its cluster has "
            f"{len(jobs[kind])} of them, counted from 0. Correct task.index, or add its address to "
            f"cluster.{kind}."
        )
    return tuple(addresses), index + (kind == "worker" and "chief" in jobs)


def _jobs(cluster: Mapping[str, Any]) -> dict[str, list[str]]:
    """The addresses of chief and workers, the chief's first."""
    for kind in cluster:
        _refuse(kind)
    for kind, addresses in cluster.items():
        if not isinstance(addresses, list) or not all(isinstance(one, str) for one in addresses):
            raise UserError(
                f'TF_CONFIG: cluster.{kind} is {addresses!r}; it must be a list of "host:port".'
            )
    jobs = {kind: cluster[kind] for kind in ("chief", "worker") if cluster.get(kind)}
    if not jobs:
        raise UserError(f"TF_CONFIG names no worker in its cluster. An example: {_EXAMPLE}")
    if len(jobs.get("chief", ())) > 1:
        raise UserError(
            f"TF_CONFIG names {len(jobs['chief'])} chiefs; there is one. Make the others workers."
        )
    return jobs


def _refuse(kind: str) -> None:
    """Raises `UserError` for a type of task that has no part in a run."""
    if kind in ("chief", "worker"):
        return
    reason = _REFUSED.get(kind, "that is no type of task")
    raise UserError(
        f"TF_CONFIG names a task of type {kind}: {reason}. Allowed: chief and worker; take it out."
    )


def _check_addresses(addresses: list[str]) -> None:
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UserError(
                f'TF_CONFIG: the address "{address}" has no port; write "host:port", with a port '
                "from 1 to 65535."
            )
    for address in addresses:
        if addresses.count(address) > 1:
            raise UserError(
                f'TF_CONFIG names the address "{address}" {addresses.count(address)} times; each '
                "worker needs one of its own, on one host with another port."
            )
