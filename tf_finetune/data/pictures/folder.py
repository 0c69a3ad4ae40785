"""A folder of pictures, one folder for each class."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from tf_finetune.data.paths import at_home, below
from tf_finetune.data.rows import Columns, Part, Record, quoted
from tf_finetune.data.text_folder import refuse_splits, split_folders
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".apng", ".gif", ".bmp", ".dib", ".webp", ".tif",
    ".tiff", ".pgm", ".ppm", ".pnm", ".pbm",
)  # fmt: skip
# Pictures that cannot be read here: they are named, not passed over.
_FOREIGN = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".dng", ".cr2", ".nef")
_ENOUGH = 1000


def is_picture(name: str) -> bool:
    """Whether a file counts as a picture by its name; what its bytes say is seen later."""
    hidden = name.startswith(".")  # macOS keeps `._a.jpg` beside `a.jpg`
    return not hidden and name.lower().endswith(SUFFIXES + _FOREIGN)


def holds_pictures(folder: Path) -> bool:
    """Whether there are more pictures than texts in a folder, by a first look."""
    kinds = collections.Counter(
        "picture" if is_picture(path.name) else path.suffix.lower()
        for path in itertools.islice(below(folder), _ENOUGH)
    )
    return kinds["picture"] > kinds[".txt"]


def parts(
    name: str, folder: Path, config: DataConfig, columns: Columns, *, split: str, labelled: bool
) -> list[Part]:
    """The pictures of `folder/CLASS/...`, or of `folder/SPLIT/CLASS/...`.

    Pictures beside the class folders are rows without a label.

    Args:
        name: the folder as messages show it.
        folder: where it stands.
        config: names the columns that picture and class count as.
        columns: to read.
        split: of the pictures, unless the folder has folders for splits.
        labelled: False takes every picture below the folder.

    Raises:
        UserError: if there are no pictures in class folders, two folders' names differ in
            case only, or a link leads back to where it stands.
    """
    if not labelled:
        found = [path for path in below(folder) if is_picture(path.name)]
        if not found:
            raise UserError(f'The folder "{folder}" has no pictures.')
        return [
            Part(
                name,
                split,
                _records(name, folder, ((path, None) for path in found), config, columns),
            )
        ]
    made = []
    for known, place in split_folders(folder, split, lambda f: _is_class(f, config)).items():
        pictures = _pictures(place, config, str(Path(name, place.relative_to(folder))))
        made.append(Part(str(place), known, _records(name, folder, pictures, config, columns)))
    return made


def _is_class(folder: Path, config: DataConfig) -> bool:
    """Whether a folder called as a split is one of a class: pictures stand right in it.

    Raises:
        UserError: if pictures stand in folders in it too, so that it may be either.
    """
    entries = sorted(folder.iterdir())
    right = next((path for path in entries if is_picture(path.name)), None)
    if right is None:
        return False
    inner = (path for entry in entries if entry.is_dir() for path in below(entry))
    deeper = next((path for path in inner if is_picture(path.name)), None)
    if deeper and folder.name not in config.classes:
        raise UserError(
            f'"{folder}" holds "{right.name}" and also pictures in folders, such as "{deeper}": is '
            f'it a split or a class? For a split move "{right.name}" into a class folder or away; '
            "for a class list all classes in config.data.classes."
        )
    return True


def _pictures(folder: Path, config: DataConfig, shown: str) -> list[tuple[Path, str | None]]:
    """Each picture with its class; none for those beside the class folders.

    Args:
        folder: where it stands; for an archive where that was unpacked.
        config: for `classes`.
        shown: the folder as messages show it.
    """
    found = [
        (path, path.relative_to(folder).parts[0] if path.parent != folder else None)
        for path in below(folder)
        if is_picture(path.name)
    ]
    classes = {name for _, name in found if name is not None}
    if not classes:
        one = len(found) == 1
        what = "1 picture stands" if one else f"{len(found):,} pictures stand"
        here = f" {what} in the folder itself." if found else ""
        tables = [path.name for path in sorted(folder.glob("*.*sv"))[:3]]
        hint = f' It holds {", ".join(tables)}; for a table of paths write "{folder}/*.csv".'
        raise UserError(
            f'The folder "{shown}" has no pictures in class folders (CLASS/NAME.jpg).{here}'
            + (hint if tables else "")
        )
    refuse_splits(shown, classes, config)
    _check_case(shown, classes - set(config.classes))
    return found


def _check_case(folder: str, classes: set[str]) -> None:
    by_lower: dict[str, list[str]] = {}
    for name in sorted(classes):
        by_lower.setdefault(name.casefold(), []).append(name)
    for names in by_lower.values():
        if len(names) > 1:
            raise UserError(
                f'The class folders {quoted(names)} in "{folder}" differ in case only. Put their '
                "pictures into one; or, if they are different classes, list all classes in "
                "config.data.classes."
            )


def _records(
    name: str,
    folder: Path,
    pictures: Iterable[tuple[Path, str | None]],
    config: DataConfig,
    columns: Columns,
) -> Iterator[Record]:
    columns.find_in(f'The folder "{name}" of pictures', [config.image, config.label])
    for path, label in pictures:
        content_of = {config.label: label, config.image: str(path)}
        # Of an archive the place in it, not where it was unpacked.
        shown = str(path if at_home(name) == folder else Path(name, path.relative_to(folder)))
        yield shown, 1, [content_of[column] for column in columns.names]
