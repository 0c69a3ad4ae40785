"""Parts of the site that are made from the code: settings and flags, with their defaults."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from absl import flags
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tf_finetune.main import define_flags
from tf_finetune.overrides import documented_settings


class _Definitions(SphinxDirective):
    """Names with their defaults, and below each what it means."""

    def defined(self, entries: Iterable[tuple[str, Any, str]]) -> list[nodes.Node]:
        items = nodes.definition_list()
        for name, default, text in entries:
            shown = name if default is None else f"{name} = {default!r}"
            term = nodes.term("", "", nodes.literal(text=shown), ids=[nodes.make_id(name)])
            meaning = nodes.definition()
            self.state.nested_parse(StringList([text], source=name), self.content_offset, meaning)
            items += nodes.definition_list_item("", term, meaning)
        return [items]


class Settings(_Definitions):
    """`{settings} fit` shows the settings of a section, without an argument those of none."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        section = self.arguments[0] if self.arguments else ""
        return self.defined(
            (key, value, text)
            for key, value, text in documented_settings()
            if key.rpartition(".")[0] == section
        )


class Flags(_Definitions):
    """`{flags}` shows the flags of the command line."""

    def run(self) -> list[nodes.Node]:
        values = flags.FlagValues()
        define_flags(values)
        return self.defined(
            (f"--{name}", values[name].value, values[name].help) for name in values if len(name) > 1
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("settings", Settings)
    app.add_directive("flags", Flags)
    return {"parallel_read_safe": True}
