"""What README and docs say is there is there: messages, settings, names, links, examples."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tf_finetune
from tests.documents import PAGES, ROOT, blocks, prose
from tf_finetune.overrides import documented_settings

API = ROOT / "docs" / "reference" / "api.md"
ERRORS = ROOT / "docs" / "errors.md"
SETTINGS = [key for key, _, _ in documented_settings()]
# Attributes that look like settings, and files that do.
OTHERS = {"model.fit", "model.predict"}
FILES = (".md", ".json", ".keras", ".safetensors")


def message(node: ast.AST) -> str:
    """The text of a string expression, with … for what is put into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(message(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return message(node.left) + message(node.right)
    return "…"


def messages() -> str:
    sources = (ROOT / "tf_finetune").rglob("*.py")
    trees = (ast.parse(source.read_text(encoding="utf-8")) for source in sources)
    kinds = (ast.Constant, ast.JoinedStr, ast.BinOp)
    return "\n".join(message(n) for tree in trees for n in ast.walk(tree) if isinstance(n, kinds))


def test_each_message_that_is_explained_exists() -> None:
    rows = re.findall(r"^\| `(.+?)` \|", ERRORS.read_text(encoding="utf-8"), re.M)
    assert len(rows) > 40
    said = messages()
    assert [row for row in rows if row not in said] == []


def test_placeholders_stand_for_what_is_put_in() -> None:
    assert message(ast.parse('f"{a} is {b!r}; " + c + "set it."', mode="eval").body) == (
        "… is …; …set it."
    )


def settings_named(text: str) -> set[str]:
    """As `fit.epochs`, in code of prose and, behind `config.`, in blocks."""
    name = r"((?:data|model|fit|results|tune)\.[a-z]\w*)"
    spans = re.findall(r"`([^`\n]+)`", prose(text))
    found = [n for s in spans for n in re.findall(rf"(?:config\.|(?<![\w./])){name}(?![\w(])", s)]
    found += [n for _, _, code in blocks(text) for n in re.findall(rf"\bconfig\.{name}", code)]
    return {name for name in found if not name.endswith(FILES)}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_setting_that_is_named_exists(page: Path) -> None:
    assert settings_named(page.read_text(encoding="utf-8")) - set(SETTINGS) - OTHERS == set()


def test_what_counts_as_a_setting() -> None:
    text = "`fit.epohcs=3`, `--config.data.x`, `results.md`, `model.predict(a)`, `a/fit.b`, fit.c"
    text += "\n\n```bash\ntf-finetune --config.tune.y=1 model.fit\n```\n"
    assert settings_named(text) == {"fit.epohcs", "data.x", "tune.y"}


def test_all_public_names_are_in_the_reference() -> None:
    shown = set(re.findall(r"^\.\. auto\w+:: (\w+)$", API.read_text(encoding="utf-8"), re.M))
    assert shown == set(tf_finetune.__all__)


def test_each_section_of_settings_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\{settings\} ?(\w*)$", text, re.M)
    assert shown == list(dict.fromkeys(key.rpartition(".")[0] for key in SETTINGS))


def anchor(heading: str) -> str:
    """As GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_link_leads_somewhere(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, place = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), target
        if place:
            headings = re.findall(r"^#+ (.+)$", prose(file.read_text(encoding="utf-8")), re.M)
            assert place in map(anchor, headings), target


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_command_and_file_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = set(re.findall(r"(?:^    |`)make ([\w-]+)", text, re.M))
    assert shown <= set(re.findall(r"^([\w-]+):", makefile, re.M))
    folders = r"(?:configs|benchmarks|examples|tests)"
    for name in re.findall(rf"\b{folders}/[\w/]+\.\w+|requirements[\w-]*\.txt", text):
        assert (ROOT / name).exists() or (page.parent / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_python_example_runs_or_says_why_not(page: Path) -> None:
    tests = (ROOT / "tests" / "test_docs_examples.py").read_text(encoding="utf-8")
    for mark, language, code in blocks(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        compile(code, str(page), "exec")
        kind, _, name = mark.partition(": ")
        assert kind in ("run", "not run"), f"{page}: mark this block:\n{code}"
        assert kind == "not run" or f'"{name}"' in tests, f"{page}: no test runs {name}"
