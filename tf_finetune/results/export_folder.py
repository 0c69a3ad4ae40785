"""The folder of an export: whose it is, and how a whole one gets its name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tf_finetune.errors import UserError
from tf_finetune.whole import sync

FORMAT = 1
# TensorFlow Serving serves the folders whose name is a number and ignores others.
VERSION, UNFINISHED, _REPLACED = "1", ".1.unfinished", ".1.replaced"
# TensorFlow keeps `assets.extra` for files that it does not read itself.
_MARKER = Path("assets.extra") / "tf_finetune.json"


def check_folder(folder: str | os.PathLike) -> None:
    """Raises `UserError` if an export to `folder` would touch what is not ours.

    Ours is a `saved_model` folder that `export` wrote, or none at all.
    """
    parent = Path(folder) / "saved_model"
    for path in (Path(folder), parent):
        if path.exists() and not path.is_dir():
            raise UserError(
                f'The export folder "{path}" is a file; move it away, or choose another.'
            )
    if not parent.exists():
        return
    found = {path.name for path in parent.iterdir()}
    strange = sorted(found - {VERSION, UNFINISHED, _REPLACED})
    if VERSION in found and read_marker(parent / VERSION) is None:
        strange.append(VERSION)
    if strange:
        raise UserError(
            f'The export folder "{parent}" exists and holds "{strange[0]}", which tf_finetune '
            "did not write. Move it away, or choose another folder by --workdir or, with "
            "--mode=export, by --output."
        )


def read_marker(version: Path) -> dict[str, Any] | None:
    """What a version folder of ours says about itself; None if it is not ours.

    Returns:
        `format`, `digest`, and what was given to `mark`.
    """
    try:
        marker = json.loads((version / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and "format" in marker else None


def mark(version: Path, **facts: Any) -> None:
    """Makes a version folder ours: writes its format, digest and some facts into it."""
    marker = {"format": FORMAT, "digest": digest(version), **facts}
    (version / _MARKER).parent.mkdir(exist_ok=True)
    (version / _MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def digest(version: Path) -> str:
    """SHA-256 over the files of a SavedModel that TensorFlow reads."""
    total = hashlib.sha256()
    parts = [version / "saved_model.pb"]
    parts += sorted([*version.glob("variables/*"), *version.glob("assets/*")])
    for path in parts:
        with path.open("rb") as file:
            total.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()};".encode())
    return total.hexdigest()


def size(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextlib.contextmanager
def placing(folder: str | os.PathLike, needed: int) -> Iterator[Path]:
    """Yields a folder to write to, which becomes `folder/saved_model/1` at the end.

    It is brought to the disk under a temporary name and then renamed, so that the
    final name never stands for half a model. A former export of ours is kept
    until then. After an error nothing is left but that former export.

    Args:
        folder: usually `WORKDIR/export`.
        needed: about how many bytes will be written.

    Raises:
        UserError: if the folder is not ours, cannot be written, or the disk is full.
    """
    check_folder(folder)
    parent = Path(folder) / "saved_model"
    with _disk_errors(parent, needed):
        parent.mkdir(parents=True, exist_ok=True)
        _recover(parent)
        if shutil.disk_usage(parent).free < needed:
            raise OSError(errno.ENOSPC, "No space left on device")
        try:
            yield parent / UNFINISHED
            sync(parent / UNFINISHED)
            _put_in_place(parent)
        finally:
            _recover(parent)


def _recover(parent: Path) -> None:
    """Clears what is unfinished; a former export that was moved aside comes back."""
    shutil.rmtree(parent / UNFINISHED, ignore_errors=True)
    if (parent / _REPLACED).exists() and not (parent / VERSION).exists():
        os.rename(parent / _REPLACED, parent / VERSION)
    shutil.rmtree(parent / _REPLACED, ignore_errors=True)


def _put_in_place(parent: Path) -> None:
    # A folder with files in it cannot be renamed over. If the process is killed
    # between the two renames, the next export brings the former one back.
    if (parent / VERSION).exists():
        os.rename(parent / VERSION, parent / _REPLACED)
    os.rename(parent / UNFINISHED, parent / VERSION)
    sync(parent, deep=False)


@contextlib.contextmanager
def _disk_errors(parent: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # TensorFlow has errors of its own for these, told by their text.
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise UserError(
                f'The disk of the export folder "{parent}" is full: {_free(parent):,} bytes are '
                f"free and about {needed:,} are needed. Make room there, or choose "
                "another folder."
            ) from error
        denied = getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS)
        if denied or "Permission denied" in str(error):
            raise UserError(f'The export folder "{parent}" cannot be written: {error}.') from error
        raise


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
