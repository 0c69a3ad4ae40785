"""A zip or tar file of a folder of pictures, unpacked once and with care."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tf_finetune.data.pictures.folder import is_picture
from tf_finetune.errors import UserError
from tf_finetune.whole import written_whole

SUFFIXES = (
    ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz",
)  # fmt: skip
# Pictures are compressed already: what grows more than this is no archive of pictures.
_MOST_GROWTH = 20
_LEAST_LIMIT = 2**30
_PIECE = 2**20
_MOST_NAME = 2**20
_NAMES = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, UnicodeDecodeError,
)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether the file counts as an archive by its name."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def check(name: str, path: Path) -> None:
    """Reads the beginning of an archive.

    Raises:
        UserError: if it is none.
    """
    with _told(name):
        next(_members(path), None)


def unpacked(name: str, path: Path, folder: Path) -> Path:
    """The folder that holds an archive's pictures; they are unpacked the first time.

    Args:
        name: the archive as messages show it.
        path: where it stands.
        folder: an existing folder to unpack into.

    Raises:
        UserError: if the archive is damaged or encrypted, a name in it leads out of the
            folder or stands there twice, or it unpacks to far more than it holds.
    """
    state = path.stat()
    key = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
    target = folder / f"unpacked-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not target.exists():
        with written_whole(target) as temporary, _told(name):
            temporary.mkdir()
            _unpack(name, path, temporary)
    return _inner(target)


def _unpack(name: str, path: Path, folder: Path) -> None:
    limit = max(_LEAST_LIMIT, _MOST_GROWTH * path.stat().st_size)
    limit = min(limit, shutil.disk_usage(folder).free // 2)
    for member, content in _members(path):
        place = PurePosixPath(member.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or ":" in "".join(place.parts[:1]):
            raise UserError(f'"{name}" holds "{member}", which leads out of its folder.')
        if "\0" in member:
            raise UserError(f'"{name}" holds {member!r}, which no disk can; give it another name.')
        if not is_picture(place.name) or "__MACOSX" in place.parts:
            continue
        target = folder / place
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                while piece := content.read(_PIECE):
                    limit -= len(piece)
                    if limit < 0:
                        raise UserError(
                            f'"{name}" unpacks to far more than it holds, or than the disk of '
                            f'"{folder.parent}" has room for. If it is right, unpack it yourself '
                            "and give the folder."
                        )
                    file.write(piece)
        except (FileExistsError, NotADirectoryError):
            raise UserError(
                f'"{name}" holds "{member}" twice, or another name that differs in case only.'
            ) from None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise UserError(
                f'"{name}" holds "{member[:40]}...", a name of {len(member)} characters, which is '
                "too long to unpack; give it a shorter one."
            ) from None


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each plain file; devices, and links to no pictures, are passed over."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                if stat.S_ISLNK(info.external_attr >> 16):
                    _refuse_link(path, info.filename)
                    continue
                with archive.open(info) as content:
                    yield info.filename, content
        return
    # Whatever is passed over is decompressed all the same.
    packed = not path.name.lower().endswith(".tar")
    left = max(_LEAST_LIMIT, _MOST_GROWTH * path.stat().st_size)
    with tarfile.open(path, "r:*", tarinfo=_Member) as tar:
        for member in tar:
            left -= member.size
            if packed and left < 0:
                raise tarfile.ReadError(
                    f"it unpacks to more than {_MOST_GROWTH} times what it holds; if that is "
                    "right, unpack it yourself and give the folder"
                )
            if member.issym() or member.islnk():
                _refuse_link(path, member.name)
            file = tar.extractfile(member) if member.isreg() else None
            if file is not None:
                yield member.name, file


def _refuse_link(path: Path, name: str) -> None:
    """A link to a picture would be one that is missing; to anything else it does not matter."""
    if is_picture(PurePosixPath(name).name):
        raise UserError(
            f'"{path.name}" holds the link "{name}", and links in archives are not followed. Pack '
            "the files themselves (tar --dereference --hard-dereference; zip without --symlinks)."
        )


class _Member(tarfile.TarInfo):
    """A file in a tar, whose name is read whole into memory: so it must not be endless."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _NAMES and self.size > _MOST_NAME:
            raise tarfile.ReadError(f"a name or a header in it takes {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Says in a sentence what is wrong with an archive."""
    try:
        yield
    except UserError:
        raise
    except (OSError, *_DAMAGED) as error:
        if getattr(error, "errno", None) is not None:  # of the disk: bz2 and gzip have no number
            raise
        raise UserError(f'"{name}" is not a whole archive: {error}.') from None
    except (RuntimeError, NotImplementedError) as error:  # a password, an unknown method
        raise UserError(f'"{name}" cannot be unpacked: {error}. Unpack it yourself.') from None


def _inner(folder: Path) -> Path:
    """Where the class folders are: archives often hold one folder that holds all."""
    while True:
        entries = list(folder.iterdir())
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        if not any(path.is_dir() for path in entries[0].iterdir()):
            return folder
        folder = entries[0]
