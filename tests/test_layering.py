"""Imports go one way through the rooms, and reading a recipe needs no TensorFlow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tf_finetune

PACKAGE = Path(tf_finetune.__file__).parent
# A module imports only from rooms further up and from its own.
ROOMS = (
    "errors",
    "stopping",
    "packaged",
    "quiet",
    "whole",
    "value_checks",
    "phase_checks",
    "data_checks",
    "task_checks",
    "config_checks",
    "settings",
    "fit_settings",
    "config",
    "recipe",
    "overrides",
    "workdir",
    "cluster",
    "checkpoints",
    "data",
    "model",
    "optim",
    "fit",
    "rates",
    "inputs",
    "assemble",
    "kept",
    "preflight",
    "exports",
    "results",
    "report",
    "interpolated",
    "finished",
    "run_state",
    "taking_part",
    "resume",
    "one_phase",
    "train",
    "plan",
    "find_rate",
    "rerun",
    "reexport",
    "tuning",
    "proof",
    "commands",
    "__init__",  # offers names of all rooms
    "main",
    "launch",
)
LEVELS = {name: level for level, name in enumerate(ROOMS)}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """`data` for `tf_finetune.data.splits`, `__init__` for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


class NoTypeImports(ast.NodeTransformer):
    """Leaves out `if TYPE_CHECKING:`, which does not run."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else node


def imported(source: str) -> Iterator[str]:
    """Modules of the package that the source imports, also inside functions."""
    tree = NoTypeImports().visit(ast.parse(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "tf_finetune":
                # A name that is no room is one that the package itself offers.
                yield name if room(name) in LEVELS else "tf_finetune"


def wrong_imports(file: Path, source: str) -> list[str]:
    own = file.parts[0].removesuffix(".py")
    return [
        f"{file} imports {name}"
        for name in imported(source)
        if room(name) != own and LEVELS[room(name)] >= LEVELS[own]
    ]


def test_every_file_has_a_level() -> None:
    assert {file.parts[0].removesuffix(".py") for file in FILES} <= LEVELS.keys()


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_one_way(file: Path) -> None:
    assert wrong_imports(file, (PACKAGE / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from tf_finetune.train import fine_tune",
        "def late():\n    from tf_finetune import results",
        "import tf_finetune.model.heads",
        "from tf_finetune import fine_tune",
    ],
)
def test_an_import_from_further_down_is_found(source: str) -> None:
    assert len(wrong_imports(Path("data/splits.py"), source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import tf_finetune.config",
        "from tf_finetune import errors",
        "if TYPE_CHECKING:\n    from tf_finetune.model import heads",
    ],
)
def test_an_import_from_further_up_is_allowed(source: str) -> None:
    assert wrong_imports(Path("data/splits.py"), source) == []


def run_fresh(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_configuration_needs_no_tensorflow() -> None:
    heavy = "{'tensorflow', 'keras', 'keras_hub', 'pandas'}"
    code = "import sys, tf_finetune; tf_finetune.FineTuneConfig().validate(); "
    assert run_fresh(code + f"print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_meeting_other_workers_needs_no_tensorflow() -> None:
    heavy = "{'tensorflow', 'keras', 'numpy', 'pandas'}"
    code = "import sys, tf_finetune.cluster.join, tf_finetune.launch; "
    assert run_fresh(code + f"print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_import_reads_and_defines_no_flags() -> None:
    code = (
        "from absl import flags; before = set(flags.FLAGS); import tf_finetune; "
        "print(sorted(set(flags.FLAGS) - before), flags.FLAGS.is_parsed())"
    )
    assert run_fresh(code, "--workdir=elsewhere", "--no_such_flag") == "[] False"
