"""The pages that people read, and the blocks in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_BLOCK = re.compile(r"(?:<!-- (.+?) -->\n)?^```(\S*)[^\n]*\n(.*?)^```$", re.M | re.S)


def blocks(text: str) -> list[tuple[str, str, str]]:
    """Mark, language and content of each fenced block.

    The mark is a comment in front: `run: NAME`, or `not run: REASON`.
    """
    return _BLOCK.findall(text)


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return _BLOCK.sub("", text)


def example(name: str) -> str:
    """The Python block with that name, from whichever page."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    (code,) = [code for text in texts for mark, _, code in blocks(text) if mark == f"run: {name}"]
    return code
