"""What stands in the column of pictures, made paths of files."""

from __future__ import annotations

import hashlib
import io
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tf_finetune.data.pictures.decode import Unusable, decode, of_python
from tf_finetune.data.rows import Part, Record
from tf_finetune.data.values import is_null, shown
from tf_finetune.errors import UserError
from tf_finetune.whole import written_whole

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
# Long enough that no path begins so: `BMW/1.jpg` is one.
_SIGNATURES = {
    re.compile(rb"\xff\xd8\xff"): ".jpg",
    re.compile(rb"\x89PNG"): ".png",
    re.compile(rb"GIF8[79]a"): ".gif",
    re.compile(rb"BM.{4}\0{4}", re.DOTALL): ".bmp",
    re.compile(rb"RIFF.{4}WEBP", re.DOTALL): ".webp",
    re.compile(rb"II[*+]\0|MM\0[*+]"): ".tiff",
}


def with_paths(part: Part, at: int, base: Path, folder: Path | None) -> Part:
    """The part with an absolute path in place of each picture.

    Args:
        part: to read.
        at: the place of the pictures' column among the values.
        base: where relative paths begin.
        folder: pictures that are no files yet become some here; None where nothing is read.
    """

    def records() -> Iterator[Record]:
        for file, row, values in part.records:
            found = list(values)
            try:
                found[at] = _path(found[at], base, folder)
            except ValueError as error:
                raise UserError(f"{file}:{row}: {error}") from None
            yield file, row, found

    return Part(part.name, part.split, records(), part.columns)


def _path(value: Any, base: Path, folder: Path | None) -> str:
    """The path; empty for none."""
    inside = False
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        # As Hugging Face's datasets store them.
        inside = isinstance(value.get("bytes"), bytes) and bool(value["bytes"])
        value = value["bytes"] if inside else value.get("path")
    if is_null(value):
        return ""
    if isinstance(value, bytes):
        suffix = next((s for sign, s in _SIGNATURES.items() if sign.match(value)), "")
        if suffix or inside:
            return _kept(value, suffix or ".img", folder)
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, np.ndarray | Image.Image):
        return _kept(_png(value), ".png", folder)
    if not isinstance(value, str):
        raise ValueError(f"config.data.image must name a column of paths; found {shown(value)}.")
    if _URL.match(value):
        parts = urllib.parse.urlsplit(value)
        if parts.scheme.lower() != "file":
            raise ValueError(
                f'"{value}" is an address; nothing is downloaded here. Download the pictures and '
                "give their paths."
            )
        value = urllib.request.url2pathname(parts.path)
    return os.path.abspath(base / os.path.expanduser(value)) if value.strip() else ""


def _png(value: Any) -> bytes:
    """A picture of Pillow, or pixels, as a file without loss."""
    image = of_python(value)
    if isinstance(value, Image.Image):
        try:
            image = decode(image)
        except Unusable as error:
            raise ValueError(f"found a picture of mode {value.mode}: {error}.") from None
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _kept(content: bytes, suffix: str, folder: Path | None) -> str:
    """Writes a file named for its content, unless it is there."""
    if folder is None:
        return ""
    digest = hashlib.sha256(content).hexdigest()[:32]
    path = folder.absolute() / "pictures" / digest[:2] / (digest + suffix)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
    return str(path)
