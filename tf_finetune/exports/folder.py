"""The folder of an export: whose it is, and how a whole one gets its name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tf_finetune.checkpoints.lock import locked
from tf_finetune.errors import ExportError, UserError
from tf_finetune.whole import sync

FORMAT = 1
# TensorFlow Serving serves the folders whose name is a number and ignores others.
VERSION = "1"
_SAVED_MODEL, _MARKER = "saved_model", "tf_finetune.json"


def place_of(folder: str | os.PathLike, kind: str = _SAVED_MODEL) -> Path:
    """Where an export of a kind lies below an export folder."""
    place = Path(folder) / kind
    return place / VERSION if kind == _SAVED_MODEL else place


def _unfinished(place: Path) -> Path:
    return place.with_name(f".{place.name}.unfinished")


def _replaced(place: Path) -> Path:
    return place.with_name(f".{place.name}.replaced")


def check_folder(folder: str | os.PathLike, kinds: Sequence[str] = (_SAVED_MODEL,)) -> None:
    """Raises `UserError` if an export to `folder` would touch what is not ours.

    Ours is a folder of that kind that an export wrote, or none at all.
    """
    for kind in kinds:
        place = place_of(folder, kind)
        for path in (Path(folder), Path(folder) / kind):
            if path.exists() and not path.is_dir():
                raise UserError(
                    f'The export folder "{path}" is a file; move it away, or choose another.'
                )
        if strange := _strange(place):
            raise UserError(
                f'The export folder "{strange.parent}" exists and holds "{strange.name}", which '
                "tf_finetune did not write. Move it away, or choose another folder by --workdir "
                "or, with --mode=export, by --output."
            )


def _strange(place: Path) -> Path | None:
    """What stands where an export would be written, and is not ours."""
    if place.name == VERSION and place.parent.exists():
        ours = {place, _unfinished(place), _replaced(place)}
        if strange := sorted(set(place.parent.iterdir()) - ours):
            return strange[0]
    return place if place.exists() and read_marker(place) is None else None


def read_marker(place: Path) -> dict[str, Any] | None:
    """What an export of ours says about itself; None if it is not ours.

    Returns:
        `format`, for a SavedModel `digest`, and what was given to `mark`.
    """
    try:
        marker = json.loads(_marker_of(place).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and "format" in marker else None


def mark(place: Path, **facts: Any) -> None:
    """Makes a folder an export of ours: writes its format and some facts into it."""
    marker: dict[str, Any] = {"format": FORMAT, **facts}
    if (place / "saved_model.pb").exists():
        marker["digest"] = digest(place)
    file = _marker_of(place)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _marker_of(place: Path) -> Path:
    # TensorFlow keeps `assets.extra` for files that it does not read itself.
    saved_model = (place / "saved_model.pb").exists()
    return place / "assets.extra" / _MARKER if saved_model else place / _MARKER


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
def placing(folder: str | os.PathLike, needed: int, kind: str = _SAVED_MODEL) -> Iterator[Path]:
    """Yields a folder to write to, which becomes `place_of(folder, kind)` at the end.

    It is brought to the disk under a temporary name and then renamed, so that the
    final name never stands for half a model. A former export of ours is kept
    until then. After an error nothing is left but that former export.

    Args:
        folder: usually `WORKDIR/export`.
        needed: about how many bytes will be written.
        kind: of export.

    Raises:
        UserError: if the folder is not ours, is in use, cannot be written, or the disk is full.
        ExportError: if the disk for temporary files is full.
    """
    check_folder(folder, [kind])
    place = place_of(folder, kind)
    with contextlib.ExitStack() as held, _disk_errors(Path(folder) / kind, needed):
        place.parent.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(Path(folder)))
        _recover(place)
        if shutil.disk_usage(place.parent).free < needed:
            raise OSError(errno.ENOSPC, "No space left on device")
        try:
            yield _unfinished(place)
            sync(_unfinished(place))
            _put_in_place(place)
        finally:
            _recover(place)


def _recover(place: Path) -> None:
    """Clears what is unfinished; a former export that was moved aside comes back."""
    shutil.rmtree(_unfinished(place), ignore_errors=True)
    if _replaced(place).exists() and not place.exists():
        os.rename(_replaced(place), place)
    shutil.rmtree(_replaced(place), ignore_errors=True)


def _put_in_place(place: Path) -> None:
    # A folder with files in it cannot be renamed over. If the process is killed
    # between the two renames, the next export brings the former one back.
    if place.exists():
        os.rename(place, _replaced(place))
    os.rename(_unfinished(place), place)
    sync(place.parent, deep=False)


@contextlib.contextmanager
def _disk_errors(parent: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except (UserError, ExportError):
        raise
    except Exception as error:
        # TensorFlow has errors of its own for these, told by their text.
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            if _in_scratch(error, parent):
                raise ExportError(
                    f'The disk of "{tempfile.gettempdir()}", for temporary files, is full: '
                    f"{_free(Path(tempfile.gettempdir())):,} bytes are free. Make room there, or "
                    "set TMPDIR to another folder; nothing was exported."
                ) from error
            raise UserError(
                f'The disk of the export folder "{parent}" is full: {_free(parent):,} bytes are '
                f"free and about {needed:,} are needed. Make room there, or choose "
                "another folder."
            ) from error
        denied = getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS)
        if denied or "Permission denied" in str(error):
            raise UserError(f'The export folder "{parent}" cannot be written: {error}.') from error
        raise


def _in_scratch(error: Exception, export: Path) -> bool:
    """Whether it was in the folder for temporary files that something found no room."""
    scratch = os.path.realpath(tempfile.gettempdir())
    named = f"{getattr(error, 'filename', None) or ''} {error}"
    elsewhere = not os.path.realpath(export).startswith(scratch + os.sep)
    return elsewhere and any(name in named for name in (scratch, tempfile.gettempdir()))


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
