"""The tasks of a Slurm job step, from the variables that `srun` gives to each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from tf_finetune.cluster.numbers import base_port, number
from tf_finetune.errors import UserError

# A job's ports follow from its number, so that two jobs on one node differ: 16 for each.
_FIRST_PORT, _PORTS, _JOBS = 10_000, 16, 1_250
_MEND = (
    "Start the workers with srun, one task each, in blocks (--distribution=block), and leave "
    "Slurm's variables as it sets them; or give the addresses in TF_CONFIG."
)


def read_tasks(environ: Mapping[str, str]) -> tuple[list[str], int] | None:
    """Addresses of all tasks, and the index of this one.

    A task has the port of the job (`TF_FINETUNE_PORT`, or one by the job's number) plus its
    number on its node.

    Args:
        environ: environment variables.

    Returns:
        The addresses and the index; None where this is no Slurm job.

    Raises:
        UserError: where the variables contradict each other.
    """
    if "SLURM_PROCID" not in environ:
        return None
    # Of the step, which may be smaller than the job.
    several = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    tasks = number(environ, several, 1)
    if "SLURM_STEP_NODELIST" not in environ:
        raise UserError(
            f"Slurm gives {tasks} tasks ({several}), but SLURM_STEP_NODELIST is not set: this "
            f"process was not started by srun. {_MEND}"
        )
    index = number(environ, "SLURM_PROCID")
    nodes = list(expand_nodes(environ["SLURM_STEP_NODELIST"]))
    counts = _tasks_per_node(environ, tasks, len(nodes))
    if index >= tasks:
        raise UserError(f"SLURM_PROCID is {index}, but {several} is {tasks}. {_MEND}")
    places = [(node, local) for node, count in enumerate(counts) for local in range(count)]
    for name, expected in zip(("SLURM_NODEID", "SLURM_LOCALID"), places[index], strict=True):
        if name in environ and number(environ, name) != expected:
            raise UserError(
                f"SLURM_PROCID is {index}, which in blocks of {_shown(counts)} tasks a node has "
                f"{name}={expected}, but that is {environ[name]}. {_MEND}"
            )
    job = number(environ, "SLURM_JOB_ID") if "SLURM_JOB_ID" in environ else 0
    port = base_port(environ, _FIRST_PORT + job % _JOBS * _PORTS, max(counts))
    return [f"{nodes[node]}:{port + local}" for node, local in places], index


def expand_nodes(text: str) -> Iterator[str]:
    """The names in Slurm's short form, in order: `n[08-10,12],login` is five of them.

    Raises:
        UserError: if it cannot be read.
    """
    for part in re.split(r",(?![^\[]*\])", text):  # not at the commas in brackets
        if not part:
            raise _unreadable(text)
        yield from _expand(part, text)


def _expand(part: str, text: str) -> Iterator[str]:
    before, bracket, rest = part.partition("[")
    if not bracket:
        if "]" in before:
            raise _unreadable(text)
        yield before
        return
    ranges, closing, after = rest.partition("]")
    if not closing:
        raise _unreadable(text)
    for one in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", one)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise _unreadable(text)
        for value in range(int(match[1]), int(match[2] or match[1]) + 1):
            for tail in _expand(after, text):
                yield f"{before}{value:0{len(match[1])}d}{tail}"


def _unreadable(text: str) -> UserError:
    return UserError(
        f'SLURM_STEP_NODELIST is "{text}", which is no list of nodes as "n[001-003,7],login". '
        f"{_MEND}"
    )


def _tasks_per_node(environ: Mapping[str, str], tasks: int, nodes: int) -> list[int]:
    """How many tasks each node has: `2(x3),1` means 2, 2, 2 and 1."""
    name = "SLURM_STEP_TASKS_PER_NODE"
    if name not in environ:
        if tasks % nodes:
            raise UserError(
                f"SLURM_NTASKS is {tasks}, but SLURM_STEP_NODELIST has {nodes} nodes, and no "
                f"{name} says how many of them run where. {_MEND}"
            )
        return [tasks // nodes] * nodes
    counts: list[int] = []
    for part in environ[name].split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if not match:
            raise UserError(f'{name} is "{environ[name]}"; it must look like "2(x3),1". {_MEND}')
        counts += [int(match[1])] * int(match[2] or 1)
    if len(counts) != nodes or sum(counts) != tasks:
        raise UserError(
            f'{name} is "{environ[name]}", {sum(counts)} tasks on {len(counts)} nodes, but there '
            f"are {tasks} tasks (SLURM_NTASKS) and {nodes} nodes (SLURM_STEP_NODELIST). {_MEND}"
        )
    return counts


def _shown(counts: list[int]) -> str:
    return ", ".join(map(str, counts))
