"""Starts the workers of this host: several for a machine with several GPUs, or for trial.

    tf-finetune-launch --workers=N [--restarts=K] [--grace=SECONDS] -- ARGUMENTS of tf-finetune

Without --workers it is one worker of a run on several hosts, as TF_CONFIG, the variables of
Slurm's srun or those of a Kubernetes Indexed Job say. With it, each line of a worker begins
with its number, SIGTERM and Ctrl-C go to all workers, and GPUs and cores are divided among
them. The exit status is that of the first worker that did not end well; 75 means that another
worker was lost, and that the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from tf_finetune.cluster.local import Workers, environments, run_workers
from tf_finetune.cluster.spec import read_cluster
from tf_finetune.errors import UserError

_PROGRAM = (sys.executable, "-m", "tf_finetune.main")


def run(argv: Sequence[str] | None = None, program: Sequence[str] = _PROGRAM) -> int:
    """Runs the command line.

    Args:
        argv: with the program's name in front; None means `sys.argv`.
        program: the command of a worker, to which the arguments are added.

    Returns:
        The exit status; where this host has one worker, it takes the place of this process.
    """
    try:
        options, arguments = _parse(list(sys.argv if argv is None else argv)[1:])
        command = [*program, *arguments]
        if options.workers is None:
            _become_worker(options, command)
        if "TF_CONFIG" in os.environ:
            raise UserError(
                f"--workers is {options.workers}, but TF_CONFIG names the workers too; leave "
                "--workers out to be the one of this host, or unset TF_CONFIG."
            )
        return run_workers(
            Workers(command, environments(options.workers, os.environ), options.grace),
            options.restarts,
        )
    except UserError as error:
        print(f"tf-finetune-launch: {error}", file=sys.stderr, flush=True)
        return 2


def _become_worker(options: argparse.Namespace, command: list[str]) -> NoReturn:
    if options.restarts:
        raise UserError(
            f"--restarts is {options.restarts}, but without --workers this is one worker of "
            "several hosts, which must be started together: have Slurm or Kubernetes do it, as "
            "in examples/."
        )
    cluster = read_cluster()
    if cluster is None:
        raise UserError(
            "nothing says who takes part: give --workers=N for workers on this machine, or start "
            "one of these on each host with TF_CONFIG, by Slurm's srun, or as a Kubernetes Indexed "
            "Job."
        )
    os.environ["TF_CONFIG"] = cluster.tf_config()
    # Signals then go to the worker itself.
    os.execv(command[0], command)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See --help.")


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    own, dashes, rest = arguments, [], []
    if "--" in arguments:
        place = arguments.index("--")
        own, dashes, rest = arguments[:place], ["--"], arguments[place + 1 :]
    parser = _Parser(
        prog="tf-finetune-launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    options: Any = (
        ("--workers", 1, None, "workers to start on this machine"),
        ("--restarts", 0, 0, "how often to start all again after a worker was lost"),
        ("--grace", 0, 30, "seconds until the other workers are ended when one has ended badly"),
    )
    for name, _, default, meaning in options:
        parser.add_argument(name, default=default, help=meaning, metavar="N")
    found = parser.parse_args(own)
    for name, least, _, _ in options:
        _to_number(found, name, least)
    if not dashes:
        raise UserError(
            'there is no "--"; write the arguments of tf-finetune after it: tf-finetune-launch '
            "--workers=2 -- --config=RECIPE.py --workdir=FOLDER"
        )
    return found, rest


def _to_number(options: argparse.Namespace, name: str, least: int) -> None:
    key = name.removeprefix("--")
    value = getattr(options, key)
    if isinstance(value, str):
        if not value.isdecimal() or int(value) < least:
            raise UserError(f'{name} is "{value}"; it must be a whole number of at least {least}.')
        setattr(options, key, int(value))


if __name__ == "__main__":
    sys.exit(run())
