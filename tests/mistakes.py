"""Commands that must fail, and what they must not change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tf_finetune import main

NAMES = ("neg", "pos")


def refusal(arguments: list[str], folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must fail and leave a folder as it is; returns its message."""
    before = snapshot(folder)
    status = main.run(["tf-finetune", *arguments])
    message = said(capfd)
    assert status == 2, message
    assert snapshot(folder) == before
    return message


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for scratch."""
    files = (path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def said(capfd: pytest.CaptureFixture[str]) -> str:
    """The one message on stderr."""
    message = capfd.readouterr().err
    assert message.startswith("tf-finetune: "), message
    assert message.count("tf-finetune: ") == 1
    assert "Traceback" not in message
    return message.removeprefix("tf-finetune: ").removesuffix("\n")


def table(count: int, label: Callable[[int], object] = lambda i: NAMES[i % 2]) -> bytes:
    """A CSV file of different texts, with the label of each row."""
    rows = "".join(f"a{i} b{i} c{i} d{i},{label(i)}\n" for i in range(count))
    return f"text,label\n{rows}".encode()
