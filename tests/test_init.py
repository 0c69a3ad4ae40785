"""The package's surface: few names, nothing heavy until it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tf_finetune


def test_settings_and_errors_come_at_once() -> None:
    from tf_finetune import config, errors

    assert tf_finetune.FineTuneConfig is config.FineTuneConfig
    assert tf_finetune.Phase is config.Phase
    assert tf_finetune.UserError is errors.UserError
    assert issubclass(tf_finetune.UserError, ValueError)


def test_importing_is_light_and_leaves_the_process_alone() -> None:
    code = (
        "import os, sys, logging, warnings;"
        "state = lambda: (dict(os.environ), warnings.filters[:], logging.root.handlers[:]);"
        "before = state(); import tf_finetune;"
        "heavy = {'tensorflow', 'keras', 'keras_hub', 'absl', 'pandas', 'pyarrow'};"
        "print(before == state(), sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True []"
    assert done.stderr == ""


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'finetune'"):
        tf_finetune.finetune  # noqa: B018
    with pytest.raises(ImportError):
        from tf_finetune import finetune  # noqa: F401
