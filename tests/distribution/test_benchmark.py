"""The benchmarks of parity and of what sending costs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distribution.processes import LIMIT, environment

PHASES = ("head", "lora", "last:1", "last:2", "all")
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def rows(*arguments, benchmark="parity.py"):
    command = [sys.executable, str(BENCHMARKS / benchmark), *arguments, f"--seconds={LIMIT}"]
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
    assert_parity(rows("--models", "MiniLM", "--kinds", "SGD", "--places", "none", "mirrored"))


@pytest.mark.real
@pytest.mark.slow
def test_minilm_in_two_and_four_processes():
    places = ("none", "2 processes", "4 processes")
    found = rows("--models", "MiniLM", "--kinds", "SGD", "AdamW", "--places", *places)
    assert_parity(found)


@pytest.mark.slow
def test_a_tiny_model_everywhere():
    found = rows("--models", "tiny")
    assert len(found) == 16
    assert_parity(found)


@pytest.mark.slow
def test_sums_of_a_tiny_model():
    found = rows("--model", "tiny", "--processes", "2", benchmark="all_reduce.py")
    assert [row[0] for row in found] == [
        f"| `{t}`" for t in ("head", "lora", "last:1", "last:2", "all")
    ]
    for _, _, count, median, fastest, _ in found:
        assert count == "2"
        assert float(median) >= float(fastest) > 0
