"""The files that `config.data.path`, `.validation` and `.test` stand for, and those in folders."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from tf_finetune.errors import UserError
from tf_finetune.packaged import is_packaged, packaged_path
from tf_finetune.value_checks import nearest

_WILD = "*?["


def expand(value: str, option: str) -> dict[str, Path]:
    """The existing files and folders that a setting names, in order.

    Args:
        value: a file, folder, glob or `package:NAME/FILE`, or several of them
            separated by commas.
        option: the setting, for messages: `config.data.path`.

    Returns:
        The path of each, by the name that messages and reports show.

    Raises:
        UserError: if something named is not there.
    """
    names = [value] if _exists(value) else [name.strip() for name in value.split(",")]
    found, real = dict[str, Path](), dict[str, str]()
    for name in names:
        for shown, path in _expand_one(name, option).items():
            before = real.setdefault(os.path.realpath(path), shown)
            if before != shown:
                raise UserError(
                    f'{option} names one file twice, as "{before}" and as "{shown}", so that each '
                    "of its rows would come twice. Name it once."
                )
            found[shown] = path
    return found


def below(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """All files below a folder in the order of their names, hidden ones left aside.

    Raises:
        UserError: if a folder cannot be read, or a link leads back to where it stands.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise UserError(
            f'"{folder}" is a link to a folder that it stands in, "{real}"; remove the link.'
        )
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f'The folder "{folder}" cannot be read: {error.strerror}.') from None
    for entry in found:
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        path = folder / entry.name
        try:
            is_folder = path.is_dir()
        except OSError as error:  # a folder that may be listed and not entered
            raise UserError(f'The folder "{folder}" cannot be read: {error.strerror}.') from None
        if is_folder:
            yield from below(path, (*above, real))
        else:
            yield path


def _exists(value: str) -> bool:
    try:
        return bool(value) and at_home(value).exists()
    except OSError:  # a name longer than the system allows
        return False


def at_home(name: str) -> Path:
    """The path, with `~` as the user's folder; before what is no user it stands for itself."""
    return Path(os.path.expanduser(name))


def _expand_one(name: str, option: str) -> dict[str, Path]:
    if is_packaged(name):
        return {name: packaged_path(name)}
    if not name:
        raise UserError(f"{option} has an empty file name; remove the comma that is too many.")
    path = at_home(name)
    if _exists(name):
        return {name: path}
    if any(sign in name for sign in _WILD):
        matches = sorted(glob.glob(str(path), recursive=True))
        if not matches:
            raise UserError(f'{option}: no file matches "{name}" (looked in {Path.cwd()}).')
        return {match: Path(match) for match in matches}
    raise UserError(f'{option}: there is no file "{name}".{_near(path)}')


def _near(path: Path) -> str:
    """What stands where the missing file was looked for."""
    folder = path.parent
    if not folder.is_dir():
        return f' Its folder "{folder}" does not exist either.'
    names = [entry.name for entry in folder.iterdir()]
    return nearest(path.name, names) or f' Looked in "{folder.resolve()}".'
