"""One row of words and tags, as the columns of the table hold it."""

from __future__ import annotations

from typing import Any

from tf_finetune.data.values import Unusable, is_null, shown, text
from tf_finetune.errors import UserError


def words_of(value: Any, place: str, *, labelled: bool) -> list[Any]:
    """The columns `text`, the words with spaces between, and `words`.

    Args:
        value: a list of words; without labels a text that is not yet divided will do, of
            which `words` is None.
        place: `FILE:ROW`, for messages.
        labelled: whether each word has a tag.

    Raises:
        Unusable: if there is no word.
        UserError: if it is something else.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not labelled and not isinstance(value, list | tuple):
        try:
            return [text(value), None]
        except TypeError as error:
            raise UserError(f"{place}: words are due, or a text; {error}.") from None
    if not isinstance(value, list | tuple) and not is_null(value):
        raise UserError(
            f"{place}: config.data.text must name a column of lists of words; found "
            f"{shown(value)}. Divide the texts into words, each with its tag."
        )
    try:
        words = [text(word) for word in value] if isinstance(value, list | tuple) else []
    except TypeError as error:
        raise UserError(f"{place}: a word must be text; {error}.") from None
    if labelled and not any(word.strip() for word in words):
        raise Unusable("empty sentence")
    return [" ".join(words), words]


def tags_of(value: Any, place: str) -> list[str]:
    """The tags of a row as they are written.

    Raises:
        Unusable: if there are none, or one of them is missing.
        UserError: if it is no list of texts.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if is_null(value):
        raise Unusable("missing label")
    if not isinstance(value, list | tuple):
        raise UserError(
            f"{place}: config.data.label must name a column of lists of tags; found "
            f"{shown(value)}. Give one tag for each word."
        )
    for tag in value:
        if isinstance(tag, int | float) and not is_null(tag):
            raise UserError(
                f"{place}: the tag {shown(tag)} is a number; write its name, such as B-PER or O."
            )
    tags = ["" if is_null(tag) else str(tag).strip() for tag in value]
    if not all(tags):
        raise Unusable("missing label")
    return tags
