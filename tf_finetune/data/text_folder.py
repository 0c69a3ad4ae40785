"""A folder of text files, one folder for each class."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from tf_finetune.data.files import codec_of
from tf_finetune.data.paths import below
from tf_finetune.data.rows import Columns, Part, Record
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig

SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


def parts(
    name: str, folder: Path, config: DataConfig, columns: Columns, *, split: str, labelled: bool
) -> list[Part]:
    """The texts of `folder/CLASS/`, or of `folder/SPLIT/CLASS/`, at any depth below.

    Args:
        name: the folder as messages show it.
        folder: where it stands.
        config: names the columns that text and class count as.
        columns: to read.
        split: of the texts, unless the folder has folders for splits.
        labelled: False takes every `.txt` file below the folder.

    Raises:
        UserError: if there are no texts in class folders.
    """
    if not labelled:
        texts = [path for path in below(folder) if _is_text(path, folder)]
        return [Part(name, split, _records(name, folder, texts, config, columns))]
    # `train/urls.txt` beside `train/pos/1.txt` makes no class of `train`.
    inner = split_folders(folder, split, lambda inside: not _in_classes(inside))
    return [
        Part(str(place), known, _records(name, place, _texts(place, config), config, columns))
        for known, place in inner.items()
    ]


def split_folders(folder: Path, split: str, is_class: Callable[[Path], bool]) -> dict[str, Path]:
    """The folder of each split; `folder` itself, as `split`, where it has none for splits.

    Args:
        folder: to look into.
        split: only `train` may hold folders for the others.
        is_class: whether a folder called `train` is a class of that name.
    """
    inner = {
        known: folder / alias
        for known, aliases in SPLIT_FOLDERS.items()
        for alias in aliases
        if split == "train" and (folder / alias).is_dir()
    }
    if "train" not in inner or is_class(inner["train"]):
        return {split: folder}
    classes = _folders(inner["train"])
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path not in inner.values() and classes & _folders(path):
            raise UserError(
                f'The folder "{folder}" has "{inner["train"].name}" and beside it "{path.name}" '
                "with the same classes, which is not read: splits are called train, validation (or "
                "val, valid, dev) and test, one folder each. Rename it, or move it away."
            )
    return inner


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def refuse_splits(folder: str | Path, classes: Collection[str], config: DataConfig) -> None:
    """Refuses folders called as splits are, of which files stand in no class folders.

    Args:
        folder: for the message.
        classes: the names of the folders that files stand in.
        config: whose `classes` may say that this is meant.
    """
    splits = {alias for aliases in SPLIT_FOLDERS.values() for alias in aliases}
    if classes and splits.issuperset(name.lower() for name in classes) and not config.classes:
        raise UserError(
            f'The folder "{folder}" has files right in {" and ".join(sorted(classes))}, which '
            "would be splits, not classes: no class folder stands in them (train/CLASS/NAME). Put "
            "files into class folders, or name them and their labels in a table (config.data.image "
            "for pictures). If they are classes, list them in config.data.classes."
        )


def _in_classes(folder: Path) -> list[Path]:
    """The texts in class folders, at any depth."""
    found = (path for path in below(folder) if _is_text(path, folder))
    return [path for path in found if path.parent != folder]


def _class_of(path: Path, folder: Path) -> str:
    return path.relative_to(folder).parts[0]


def _is_text(path: Path, folder: Path) -> bool:
    """Whether a file below a folder counts: hidden ones, and what is in hidden folders, do not."""
    inside = path.relative_to(folder).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in inside)
    return not hidden and path.suffix.lower() == ".txt"


def _texts(folder: Path, config: DataConfig) -> list[Path]:
    found = _in_classes(folder)
    refuse_splits(folder, {_class_of(path, folder) for path in found}, config)
    if not found:
        tables = [path.name for path in sorted(folder.glob("*.*"))[:3]]
        hint = f' It holds {", ".join(tables)}; for tables write "{folder}/*.csv".'
        raise UserError(
            f'The folder "{folder}" has no text files in class folders (CLASS/NAME.txt), nor '
            "pictures (CLASS/NAME.jpg)." + (hint if tables else "")
        )
    return found


def _records(
    name: str, folder: Path, texts: Iterable[Path], config: DataConfig, columns: Columns
) -> Iterator[Record]:
    columns.find_in(f'The folder "{name}" of text files', [config.text, config.label])
    codec = codec_of(config.encoding)
    for path in texts:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f'"{path}" cannot be read: {error.strerror}.') from None
        if b"\0" in content and not codec.startswith(("utf-16", "utf-32")):
            raise UserError(f'"{path}" is a binary file; the folder must hold plain texts.')
        try:
            text = content.decode(codec, "surrogateescape")
        except UnicodeError as error:
            raise UserError(
                f'"{path}" is not text in {config.encoding}: {error}. Set --config.data.encoding.'
            ) from None
        content_of = {config.label: _class_of(path, folder), config.text: text}
        yield str(path), 1, [content_of[column] for column in columns.names]
