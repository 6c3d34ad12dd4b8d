"""Documentation is written once: under the field. So every field has some, and every field is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from agentkd.config import Settings
from agentkd.plugins import KINDS, PluginHost


def walk(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield f"{path}{name}", field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from walk(field.annotation, f"{path}{name}.")


FIELDS = dict(walk(Settings))


@pytest.mark.parametrize("path", FIELDS)
def test_every_setting_is_documented(path: str) -> None:
    text = FIELDS[path].description
    assert text, f"`{path}` has no docstring"
    assert text.rstrip().endswith("."), f"the docstring of `{path}` is no sentence: {text!r}"


@pytest.mark.parametrize("path", [path for path in FIELDS if "." in path])
def test_every_setting_is_read_somewhere(path: str, sources: dict[str, str]) -> None:
    name = path.rpartition(".")[2]
    homes = ("agentkd/config/", "agentkd/schema/")
    used = re.compile(rf"(\.{name}\b|[\"']{name}[\"']|settings\.{path.partition('.')[0]}\b.*model_dump)")
    readers = [p for p, text in sources.items() if not p.startswith(homes) and used.search(text)]
    assert readers, f"nobody reads the setting `{path}`: it silently does nothing"


def test_every_option_of_a_built_in_component_is_documented() -> None:
    host = PluginHost(auto=False, modules=["agentkd.builtins"])
    components = list(host.registry)
    assert components
    bare = [
        f"{c.kind}/{c.name}.{option}"
        for c in components
        for option, field in c.settings.model_fields.items()
        if not field.description
    ]
    assert bare == []
    assert all(c.summary.endswith(".") for c in components)


def test_kinds_with_options_have_a_table() -> None:
    host = PluginHost(auto=False, modules=["agentkd.builtins"])
    with_options = {c.kind for c in host.registry if c.settings.model_fields}
    tables = {kind for kind in KINDS if kind in Settings.model_fields}
    assert with_options - {"objective"} <= tables  # objectives have theirs in `[train.objective.NAME]`
