"""The pods of a Kubernetes Indexed Job behind a headless service.

The names that a pod gets by itself: `JOB_COMPLETION_INDEX`, its index, and `HOSTNAME`, which
is the name of the job and that index. The manifest adds two:

    TF_FINETUNE_WORKERS   how many pods the job has, its `completions`
    TF_FINETUNE_SERVICE   the name of the headless service, the pods' `subdomain`
    TF_FINETUNE_PORT      optional: the port of each pod, 2222 if not set

`examples/kubernetes.yaml` is a whole manifest.
"""

from __future__ import annotations

from collections.abc import Mapping

from tf_finetune.cluster.numbers import base_port, number
from tf_finetune.errors import UserError

_INDEX, _WORKERS, _SERVICE = "JOB_COMPLETION_INDEX", "TF_FINETUNE_WORKERS", "TF_FINETUNE_SERVICE"


def read_pods(environ: Mapping[str, str]) -> tuple[list[str], int] | None:
    """Addresses of all pods, and the index of this one.

    Args:
        environ: environment variables.

    Returns:
        The addresses and the index; None where this is no Indexed Job.

    Raises:
        UserError: where a variable is missing or they contradict each other.
    """
    if _INDEX not in environ:
        return None
    index = number(environ, _INDEX)
    for name, meaning in ((_WORKERS, "the job's completions"), (_SERVICE, "the headless service")):
        if not environ.get(name):
            raise UserError(
                f"{_INDEX} is {index}, but {name} is not set; put it into the container's env: "
                f"{meaning}, as in examples/kubernetes.yaml."
            )
    workers = number(environ, _WORKERS, 1)
    if index >= workers:
        raise UserError(
            f"{_INDEX} is {index}, but {_WORKERS} is {workers}; set it to the job's completions."
        )
    pod = environ.get("HOSTNAME", "").partition(".")[0]
    job = pod.removesuffix(f"-{index}")
    if job == pod:
        raise UserError(
            f'HOSTNAME is "{pod}", which does not end with -{index} as the pods of an Indexed Job '
            "do; leave the pod's hostname as Kubernetes sets it."
        )
    port = base_port(environ, 2222)
    return [f"{job}-{one}.{environ[_SERVICE]}:{port}" for one in range(workers)], index
