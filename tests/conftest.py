"""Shared by all tests."""

import os

# Before TensorFlow is imported by any test.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest


@pytest.fixture(scope="session")
def preset(tmp_path_factory):
    """A tiny pretrained model, as a file."""
    from tests.runs import save_preset

    return save_preset(tmp_path_factory.mktemp("preset") / "tiny.keras")


@pytest.fixture(scope="session")
def finished(preset, tmp_path_factory):
    """A run that came to its end; tests must leave its folder as it is."""
    from tests.runs import finished_run

    return finished_run(preset, tmp_path_factory.mktemp("finished"))
