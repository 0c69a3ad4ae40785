"""The parity benchmark on the real model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distribution.processes import LIMIT, environment

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "parity.py"


def rows(*arguments):
    command = [sys.executable, str(BENCHMARK), *arguments, f"--seconds={LIMIT}"]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=4 * LIMIT
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [line.split(" | ") for line in done.stdout.splitlines()[2:]]


def assert_parity(found):
    for _, _, difference, equal, _, size in found:
        assert float(difference) <= 1e-6
        assert equal in ("-", "yes")
        assert re.fullmatch(r"\d+\.\d+ MB \|", size)


@pytest.mark.real
def test_minilm_on_two_devices():
    assert_parity(rows("--kinds", "SGD", "--places", "none", "mirrored"))


@pytest.mark.real
@pytest.mark.slow
def test_minilm_in_two_and_four_processes():
    places = ("none", "2 processes", "4 processes")
    assert_parity(rows("--kinds", "SGD", "AdamW", "--places", *places))
