"""Records checked one by one and made rows of the table of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from tf_finetune.data.findings import Findings
from tf_finetune.data.rows import Columns, Part, quoted, setting_of
from tf_finetune.data.sentences import tags_of, words_of
from tf_finetune.data.text_folder import SPLIT_FOLDERS
from tf_finetune.data.values import Labels, Unusable, columns_of, is_readable, names_in, text
from tf_finetune.data_checks import LANGUAGE, TOKENS
from tf_finetune.errors import UserError
from tf_finetune.settings import DataConfig
from tf_finetune.value_checks import nearest

BAD_ROWS = (
    "empty text",
    "empty sentence",
    "words and tags of unequal number",
    "missing picture",
    "undecodable bytes",
    "missing label",
    "missing group",
    "non-finite target",
)
"""Kinds of finding of rows that should be mended. "other split" is none of them."""

_LABEL_TYPES = {
    "classification": pa.string(),
    "multi_label": pa.list_(pa.string()),
    "regression": pa.float64(),
    TOKENS: pa.list_(pa.string()),
    LANGUAGE: pa.string(),
}
# With more undecodable rows than both of these the encoding is wrong, not the rows.
_MOST_UNDECODABLE = 10
_MOST_UNDECODABLE_SHARE = 0.05
_MOST_NAMES = 1000


def schema(columns: Columns, task: str, *, soft: bool = False) -> pa.Schema:
    """The types of the table's columns, in order.

    Args:
        columns: of the records.
        task: that the labels are for.
        soft: `shares` stands beside `label`, which is the class with the largest one.
    """
    types = {"text": pa.string(), "text_pair": pa.string(), "image": pa.string()}
    if "words" in columns.roles:
        types = {"text": pa.string(), "words": pa.list_(pa.string())}
    types |= {"label": _LABEL_TYPES[task], "shares": pa.map_(pa.string(), pa.float64())}
    needed = {*columns.roles, *(["text"] if "words" in columns.roles else [])}
    needed |= {"shares"} if soft and "label" in needed else set()
    types = {role: kind for role, kind in types.items() if role in needed}
    types |= {role: pa.string() for role in ("group", "slice") if role in columns.roles}
    return pa.schema(types | {"split": pa.string(), "file": pa.string(), "row": pa.int64()})


class Rows:
    """Turns records into rows of the table; findings say which were left out.

    Attributes:
        findings: what is wrong with the rows seen so far.
    """

    def __init__(
        self, columns: Columns, splits: dict[str, str], task: str, config: DataConfig, *, train: str
    ) -> None:
        """Prepares for one pass.

        Args:
            columns: of the records.
            splits: "train", "validation" or "test" by the split column's values.
            task: that the labels are for.
            config: for `where`, `label_separator` and messages.
            train: what the table calls the training split: "train", or "" where
                other splits are still to be cut from it.
        """
        self.findings = Findings()
        self._columns, self._splits, self._task, self._config = columns, splits, task, config
        self._train = train
        self._labelled = "label" in columns.roles
        self._names: dict[str, dict[str, None]] = {"split": {}, "where": {}}
        self._kept = 0
        self._label_types: dict[str, tuple[str, Any]] = {}

    def of(self, parts: Iterable[Part]) -> Iterator[tuple[Any, ...]]:
        """The usable rows of all parts, in the order of the schema's columns.

        Raises:
            UserError: if a part has no rows, no row at all is left, a split that is
                configured does not occur, or a value cannot be what it should be.
        """
        for part in parts:
            yield from self._of_part(part)
        self._check_splits()
        if self._kept:
            return
        if self._names["where"]:
            raise UserError(
                f'config.data.where is "{self._config.where}", but no row has that value; '
                f"found: {quoted(self._names['where'])}."
            )
        counts = (f"{self.findings.count(kind):,} x {kind}" for kind in self.findings.kinds())
        raise UserError(
            f"No row of the data can be used: {', '.join(counts)}. "
            f"Check {setting_of(self._columns.roles[0])} and config.data.label."
        )

    def _of_part(self, part: Part) -> Iterator[tuple[Any, ...]]:
        config = self._config
        labels = Labels(
            self._task,
            config.label_separator,
            soft=config.soft_labels,
            others=self._label_types,
        )
        columns = part.columns or self._columns
        seen, undecodable = 0, self.findings.count("undecodable bytes")
        for file, number, values in part.records:
            seen += 1
            raw = dict(zip(columns.roles, values, strict=True))
            file = _printable(file)  # names of files can be undecodable, too
            try:
                if row := self._row(raw, labels, part.split, file, number):
                    self._kept += 1
                    yield row
            except Unusable as error:
                self.findings.add(str(error), f"{file}:{number}", _printable(values[0]))
        if not seen:
            raise no_rows(part.name)
        undecodable = self.findings.count("undecodable bytes") - undecodable
        if undecodable > max(_MOST_UNDECODABLE, _MOST_UNDECODABLE_SHARE * seen):
            files = "image" in columns.roles
            raise UserError(
                f'"{part.name}": {undecodable:,} of {seen:,} rows are not {self._config.encoding} '
                f"(such as {self.findings['undecodable bytes'].examples[0][0]}). "
                + (
                    "Give these files names that are."
                    if files
                    else "Set --config.data.encoding (cp1252, latin-1, utf-16, ...)."
                )
            )

    def _row(
        self, raw: dict[str, Any], labels: Labels, split: str, file: str, number: int
    ) -> tuple[Any, ...] | None:
        """One row; None if `where` leaves it out."""
        if not self._labelled:
            return (*self._texts(raw, file, number), "", file, number)
        if "where" in raw and not self._is_wanted(raw["where"]):
            return None
        if "split" in raw and split == "train":
            split = self._named_split(raw["split"])
        texts = self._texts(raw, file, number)
        if "words" in raw:
            label: Any = tags_of(raw["label"], f"{file}:{number}")
            if len(label) != len(texts[1]):
                counts = f"{len(texts[1])} words, {len(label)} tags"
                self.findings.add("words and tags of unequal number", f"{file}:{number}", counts)
                return None
        else:
            label = labels.convert(raw["label"], file, number)
        group = [_scalar(raw["group"], "group", file, number)] if "group" in raw else []
        if "" in group:
            raise Unusable("missing group")
        # Of no weight for training: an empty value is as good as any, an unreadable one too.
        part = [_printable(raw["slice"])] if "slice" in raw else []
        if not all(is_readable(value) for value in (*names_in(label), *group)):
            raise Unusable("undecodable bytes")
        return (
            *texts,
            *columns_of(label),
            *group,
            *part,
            self._train if split == "train" else split,
            file,
            number,
        )

    def _texts(self, raw: dict[str, Any], file: str, number: int) -> list[Any]:
        if "words" in raw:
            text, words = words_of(raw["words"], f"{file}:{number}", labelled=self._labelled)
            if is_readable(text):
                return [text, words]
            if self._labelled:
                raise Unusable("undecodable bytes")
            self.findings.add("undecodable bytes", f"{file}:{number}", _printable(text))
            return [_printable(text), words and [_printable(word) for word in words]]
        roles = [role for role in ("text", "text_pair", "image") if role in raw]
        texts = [_scalar(raw[role], role, file, number) for role in roles]
        if not self._labelled:
            if all(is_readable(value) for value in texts):
                return texts
            self.findings.add("undecodable bytes", f"{file}:{number}", _printable(texts[0]))
            return [_printable(value) for value in texts]
        for value in texts:
            if not value or value.isspace():
                raise Unusable("missing picture" if "image" in raw else "empty text")
            if not is_readable(value):
                raise Unusable("undecodable bytes")
        return texts

    def _is_wanted(self, value: Any) -> bool:
        value = _printable(value)
        self._note("where", value)
        return value == self._config.where.partition("=")[2]

    def _named_split(self, value: Any) -> str:
        value = _printable(value)
        self._note("split", value)
        if value not in self._splits:
            raise Unusable("other split")
        return self._splits[value]

    def _note(self, what: str, value: str) -> None:
        if len(self._names[what]) < _MOST_NAMES or (what == "split" and value in self._splits):
            self._names[what][value] = None

    def _check_splits(self) -> None:
        found = self._names["split"]
        for value, split in self._splits.items():
            if found and value not in found:
                raise UserError(
                    f'config.data.{split} is "{value}", but the column "{self._config.split}" '
                    f"(config.data.split) never says so; it has: {quoted(found)}."
                    f"{nearest(value, found)} Name one of these{other_split(split)}."
                )
        ours = self._splits
        for split in ("validation", "test"):
            usual = SPLIT_FOLDERS[split]
            forgotten = [v for v in found if v.lower() in usual and v not in ours]
            if forgotten and split not in ours.values():
                raise UserError(
                    f'config.data.split is "{self._config.split}", a column with rows of '
                    f'"{forgotten[0]}", but config.data.{split} is '
                    f"{getattr(self._config, split)}, a share of the training rows. Set "
                    f"--config.data.{split}={forgotten[0]} to use these, or choose the rows to "
                    "train on by config.data.where instead."
                )


def other_split(split: str) -> str:
    """What else than a name can stand for a split, as the end of a sentence."""
    return "" if split == "train" else ", or give a fraction (0.1) to cut it from the training rows"


def no_rows(name: str) -> UserError:
    """The error for a file that ends with its header."""
    return UserError(f'"{name}" has columns but no rows. Add rows, or give another file.')


def _scalar(value: Any, role: str, file: str, number: int) -> str:
    if type(value) is str:
        return value
    try:
        return text(value)
    except TypeError as error:
        raise UserError(
            f"{file}:{number}: config.data.{role} must name a column of text; {error}."
        ) from None


def _printable(value: Any) -> str:
    """The value as text that can be written anywhere."""
    if type(value) is str and value.isascii():
        return value
    try:
        return text(value).encode("utf-8", "replace").decode()
    except TypeError:
        return repr(value)
