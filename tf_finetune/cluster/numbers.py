"""Whole numbers in environment variables."""

from __future__ import annotations

from collections.abc import Mapping

from tf_finetune.errors import UserError

_PORT = "TF_FINETUNE_PORT"


def number(environ: Mapping[str, str], name: str, least: int = 0) -> int:
    """The value of a variable.

    Raises:
        UserError: if it is not set, no whole number, or below `least`.
    """
    text = environ.get(name, "")
    if not text.isdecimal() or int(text) < least:
        raise UserError(f'{name} is "{text}"; it must be a whole number of at least {least}.')
    return int(text)


def base_port(environ: Mapping[str, str], default: int, count: int = 1) -> int:
    """The first of `count` ports: `TF_FINETUNE_PORT` or the default.

    Raises:
        UserError: if there are not so many ports from there on.
    """
    port = number(environ, _PORT, 1) if _PORT in environ else default
    if port + count > 2**16:
        raise UserError(
            f"{_PORT} is {port}, and {count} workers of a host need a port each; the last is 65535."
        )
    return port
