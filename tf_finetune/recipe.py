"""Recipes: Python files whose `get_config()` returns a `FineTuneConfig`."""

from __future__ import annotations

import dataclasses
import re
import traceback
from pathlib import Path
from typing import Any

from tf_finetune import config as settings
from tf_finetune.config import FineTuneConfig
from tf_finetune.errors import UserError
from tf_finetune.value_checks import nearest


def load_recipe(path: str | Path) -> FineTuneConfig:
    """Runs a recipe and returns its configuration, not yet validated.

    Args:
        path: a Python file that defines `get_config()`.

    Returns:
        What its `get_config()` returned.

    Raises:
        UserError: if there is no such file, it does not run (with the line at
            fault), or it gives no `FineTuneConfig`.
    """
    file = Path(path)
    _check_file(file)
    try:
        names: dict[str, Any] = {"__name__": "recipe", "__file__": str(file)}
        exec(compile(file.read_bytes(), str(file), "exec"), names)
        get_config = names.get("get_config")
        config = get_config() if callable(get_config) else None
    except (Exception, SystemExit) as error:  # a script given for a recipe may exit
        raise UserError(_what_failed(file, error)) from error
    if not callable(get_config):
        raise UserError(
            f'"{file}" defines no function get_config() that returns a FineTuneConfig; '
            "configs/default.py is an example."
        )
    if not isinstance(config, FineTuneConfig):
        hint = "; is its `return` missing?" if config is None else "."
        raise UserError(
            f'get_config() in "{file}" returns {type(config).__name__}; '
            f"it must return a tf_finetune.FineTuneConfig{hint}"
        )
    return config


def written_recipe(config: FineTuneConfig, opening: str) -> str:
    """A recipe file that gives this configuration, with the settings that are no defaults."""
    named = isinstance(config.phases, str)
    lines = [
        f'"""{opening}"""',
        "",
        f"from tf_finetune import FineTuneConfig{'' if named else ', Phase'}",
        "",
        "",
        "def get_config() -> FineTuneConfig:",
        "    config = FineTuneConfig()",
    ]
    default = FineTuneConfig()
    for field in dataclasses.fields(config):
        section, usual = getattr(config, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(section):
            lines += [
                f"    config.{field.name}.{one.name} = {getattr(section, one.name)!r}"
                for one in dataclasses.fields(section)
                if getattr(section, one.name) != getattr(usual, one.name)
            ]
        elif section != usual:
            lines.append(f"    config.{field.name} = {section!r}")
    return "\n".join([*lines, "    return config", ""])


def _check_file(file: Path) -> None:
    if file.is_dir():
        inside = ", ".join(sorted(str(recipe) for recipe in file.glob("*.py")))
        raise UserError(f'--config "{file}" is a folder; name a file: {inside or "none there"}.')
    if not file.exists():
        there = [str(recipe) for recipe in file.parent.glob("*.py")]
        raise UserError(f'--config "{file}": there is no such file.{nearest(str(file), there)}')
    if file.suffix != ".py":
        raise UserError(
            f'--config "{file}" is no Python file; a recipe ends in .py and defines get_config(). '
            "Single settings go on the command line: --config.data.path=FILE."
        )


def _what_failed(file: Path, error: BaseException) -> str:
    """`recipe.py, line 7: AttributeError: ...`, with the nearest name for a misspelt setting."""
    if isinstance(error, SyntaxError):
        message, line = error.msg, error.lineno if error.filename == str(file) else None
    else:
        frames = traceback.extract_tb(error.__traceback__)
        message = str(error)
        line = next((f.lineno for f in reversed(frames) if f.filename == str(file)), None)
    where = f'"{file}", line {line}' if line else f'"{file}"'
    return f"{where}: {type(error).__name__}: {message}.{_misspelt(error)}"


def _misspelt(error: BaseException) -> str:
    if not isinstance(error, AttributeError | TypeError):
        return ""
    words = re.findall(r"\w+", str(error))
    found = [getattr(settings, word, None) for word in words]
    fields = [
        field.name
        for kind in found
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
        for field in dataclasses.fields(kind)
    ]
    if fields and "positional argument" in str(error):
        return " Settings are given by name, as Phase(train='head')."
    named = re.findall(r"'(\w+)'", str(error))
    return nearest(named[-1], fields) if fields and named else ""
