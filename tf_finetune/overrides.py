"""Settings on the command line: `--config.fit.epochs=3` on top of a configuration."""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from tf_finetune.config import FineTuneConfig, Phase
from tf_finetune.errors import UserError
from tf_finetune.value_checks import kind_of, nearest


def override(
    config: FineTuneConfig, arguments: Sequence[str], known: Iterable[str] = ()
) -> tuple[FineTuneConfig, list[str]]:
    """Applies every `--config.KEY=VALUE`, in order.

    Args:
        config: to start from; left as it is.
        arguments: of the command line, without the program's name.
        known: names of the flags that were read already, for suggestions.

    Returns:
        The new configuration, not yet validated, and the arguments that are no flags.

    Raises:
        UserError: for a setting or flag that does not exist, with the nearest one,
            and for a value of the wrong type.
    """
    kinds = {key: kind for key, kind, _ in _settings(config)}
    for key in (keys := _keys(arguments)):
        _check_key(key, keys, kinds, config)
    config_flags.register_flag_parser_for_type(tuple[str, ...], _Names())
    config_flags.register_flag_parser_for_type(Any, _AsTyped())
    values = flags.FlagValues()
    values.set_gnu_getopt()
    try:
        config_flags.DEFINE_config_dataclass(
            "config", config, flag_values=values, sys_argv=list(arguments)
        )
        _, *rest = values(["", *arguments])
    except flags.UnrecognizedFlagError as error:
        name = f"--{error.flagname}"
        hint = nearest(name, [f"--{other}" for other in known])
        raise UserError(f"there is no flag {name}.{hint} See --help.") from None
    except flags.IllegalFlagValueError as error:
        raise UserError(_wrong_type(str(error), kinds)) from None
    except (flags.Error, ValueError) as error:
        raise UserError(f"{error}.") from None
    return values.config, rest


class _Names(tuple_parser.TupleParser):
    """`neg,pos`, or the flag once for each name; config_flags wants a tuple parser here."""

    def parse(self, argument: Any) -> tuple[str, ...]:
        if isinstance(argument, tuple):
            return argument
        given = [argument] if isinstance(argument, str) else argument
        return tuple(name.strip() for part in given for name in part.split(",") if name.strip())


class _AsTyped(flags.ArgumentParser):
    """Takes any value: `phases` is a recipe's name or, from a recipe file, a tuple."""

    def parse(self, argument: Any) -> Any:
        return argument


def _keys(arguments: Sequence[str]) -> list[str]:
    found = (re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in arguments)
    return [match[1] for match in found if match]


def _settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Key, type and value of every setting."""
    for field in dataclasses.fields(node):
        key, value = prefix + field.name, getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{key}.")
            continue
        yield key, field.type, value
        if isinstance(value, list | tuple):
            for index, item in enumerate(value):
                if isinstance(item, Phase):
                    yield from _settings(item, f"{key}[{index}].")


def _check_key(
    key: str, keys: Sequence[str], kinds: dict[str, Any], config: FineTuneConfig
) -> None:
    if key.startswith("phases["):
        if isinstance(config.phases, str) or "phases" in keys:
            raise UserError(
                f"--config.{key} needs a recipe file in which `phases` is a list of Phase; here"
                " it is a recipe's name, whose values are config.fit.epochs and the like."
            )
        if key not in kinds:
            raise UserError(
                f'there is no setting "config.{key}"; there are {len(config.phases)} phases, '
                f"counted from 0.{_suggestion(key, kinds)}"
            )
    elif key not in kinds:
        inside = [name for name in kinds if name.startswith(f"{key}.")]
        if inside:
            raise UserError(
                f"config.{key} is a group of settings; set one of them: config.{inside[0]}, ..."
            )
        raise UserError(f'there is no setting "config.{key}".{_suggestion(key, kinds)}')


def _suggestion(key: str, kinds: dict[str, Any]) -> str:
    last = key.rpartition(".")[2]
    same = [name for name in kinds if name.rpartition(".")[2] == last]
    return (nearest(key, same) or nearest(key, kinds)).replace('"', '"config.', 1)


def _wrong_type(message: str, kinds: dict[str, Any]) -> str:
    """The sentence for absl's `flag --config.fit.epochs=x: reason`."""
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", message, re.DOTALL)
    if not match or match[1] not in kinds:
        return message
    return f'config.{match[1]} is "{match[2]}"; it must be {kind_of(kinds[match[1]])}.'


def documented_settings() -> Iterator[tuple[str, Any, str]]:
    """Key, default and meaning of every setting, from the docstrings."""
    config = FineTuneConfig()
    groups = [("", config)]
    groups += [(f"{n}.", getattr(config, n)) for n in ("data", "model", "fit", "results", "tune")]
    for prefix, group in groups:
        for name, text in _documented(type(group)).items():
            yield prefix + name, getattr(group, name), text


def describe_settings() -> str:
    """Every setting with its default and what it means, for a terminal."""
    lines = []
    for key, value, text in documented_settings():
        shown = ",".join(value) if isinstance(value, tuple) else value
        lines.append(f"  --config.{key}={shown}")
        lines += textwrap.wrap(text, 84, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def _documented(kind: type) -> dict[str, str]:
    """The text on each attribute in a docstring in Google style."""
    block = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    found = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", block, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
