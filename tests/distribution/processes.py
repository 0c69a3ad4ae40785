"""Processes that train together on this machine."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np

LIMIT = 600  # seconds until all are killed


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def environment(**more):
    return os.environ | {
        "TF_NUM_INTRAOP_THREADS": "1",
        # Devices of one process wait for each other, each in a thread.
        "TF_NUM_INTEROP_THREADS": "8",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **more,
    }


def together(commands, environments):
    """Runs commands at the same time; what each said, by its exit status.

    All are killed at the end, whatever happens.
    """
    running = [
        subprocess.Popen(c, env=e, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c, e in zip(commands, environments, strict=True)
    ]
    end = time.monotonic() + LIMIT
    said = []
    try:
        for process in running:
            words, _ = process.communicate(timeout=max(1, end - time.monotonic()))
            said.append((process.returncode, words))
    finally:
        for process in running:
            process.kill()
            process.wait()
    return said


def cluster(count, **more):
    """The environments of workers that find each other by TF_CONFIG."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
    spec = {"worker": addresses}
    configs = ({"cluster": spec, "task": {"type": "worker", "index": i}} for i in range(count))
    return [environment(TF_CONFIG=json.dumps(config), **more) for config in configs]


def outcomes(strategy, names, folder, environments):
    """What cases come to in processes that run them together: one dict of arrays for each."""
    files = [folder / f"{strategy}-{i}.npz" for i in range(len(environments))]
    commands = [
        [sys.executable, "-m", "tests.distribution.worker", strategy, str(file), *names]
        for file in files
    ]
    for status, words in together(commands, environments):
        assert status == 0, words[-6000:]
    return [dict(np.load(file)) for file in files]


def named(*cases):
    """Functions of the modules beside this one, as a worker takes them."""
    return [f"{case.__module__.rpartition('.')[2]}.{case.__name__}" for case in cases]
